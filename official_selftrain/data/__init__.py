"""Data: sources of examples, augmentation and the input pipeline.

Everything between a source and a training batch is a `tf.data` graph. The batch of
step n depends only on the source, the seed and n.
"""
