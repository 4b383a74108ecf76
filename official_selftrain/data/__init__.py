"""Data: sources of examples, augmentation and the input pipeline.

Everything between a source and a training batch is a `tf.data` graph, and the
batch of step n is a function of the source, the seed and n alone.
"""
