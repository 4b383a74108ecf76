"""Label with one or more workers: in this process, in several, or on Apache Beam."""

import concurrent.futures
import dataclasses
import multiprocessing
import os

from official_selftrain.checks import progress
from official_selftrain.data import pixels
from official_selftrain.data.sources import pools
from official_selftrain.labeling import label_store, opening, worker_start


@dataclasses.dataclass(frozen=True)
class Job:
    """A labeling job.

    It holds only names, no model and no image, so it can be sent to a worker.

    Attributes:
        teacher: `opening.TeacherSettings`.
        pool: the arguments of `pools.open_pool`, `images` first.
        output_dir: str.
        storage: `label_store.Storage`.
        batch_size: int.
        worker: `label_store.Worker`.
    """

    teacher: opening.TeacherSettings
    pool: tuple
    output_dir: str
    storage: label_store.Storage = label_store.Storage()
    batch_size: int = 16
    worker: label_store.Worker = label_store.Worker()


def label(job, on_images=None):
    """Label a worker's part of the images.

    Args:
        job: `Job`.
        on_images: as in `label_store.write`.
    """
    source = pools.open_pool(*job.pool)
    teacher = opening.open_teacher(job.teacher, job.pool[0], source)
    for title, notes in (("images", source.notes), ("teacher", teacher.notes)):
        for note in notes if job.worker.index == 0 else ():
            print(f"{title}: {note}", flush=True)
    for line in pixels.told(*pixels.of_source(source), with_gray=False):
        if job.worker.index == 0:
            print(f"images: {line}", flush=True)
    label_store.write(
        teacher,
        source,
        job.output_dir,
        job.storage,
        job.batch_size,
        job.worker,
        settings={"images": job.pool[0], "image_dir": job.pool[1]},
        on_images=on_images,
    )


def label_in_processes(job, count):
    """Label a worker's part in several processes, one GPU each if available.

    Args:
        job: `Job`.
        count: int, number of processes.
    """
    source = pools.open_pool(*job.pool)
    parts = [
        dataclasses.replace(
            job,
            worker=label_store.Worker(
                job.worker.index * count + index, job.worker.count * count
            ),
        )
        for index in range(count)
    ]
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    total = source.num_images // job.worker.count
    shared = done, context.Value("i", 0), context.Event()
    with concurrent.futures.ProcessPoolExecutor(
        count, context, worker_start.start, shared
    ) as pool:
        futures = [pool.submit(_label_and_count, part, os.getpid()) for part in parts]
        try:
            _wait(futures, done, total)
        except BaseException:
            shared[-1].set()  # every process ends at its next image
            pool.shutdown(cancel_futures=True)
            raise


def _wait(futures, done, total):
    """Show the progress of processes until all have ended, or one has failed."""
    with progress.bar(total, "pseudo_labels", "image") as bar:
        while concurrent.futures.wait(futures, 0.5).not_done:
            bar.update(done.value - bar.n)
            for future in futures:
                if future.done():
                    future.result()
        bar.update(done.value - bar.n)
    for future in futures:
        future.result()


def _label_and_count(job, parent):
    def on_images(count):
        worker_start.count(count)
        if worker_start.is_stopped():
            raise RuntimeError("Expected to continue. Received: a stop")
        if os.getppid() != parent:  # the parent is gone
            os._exit(1)

    label(job, on_images)


def label_with_beam(job, beam_flags):
    """Label all workers' parts as elements of a Beam pipeline.

    Beam's workers may be other machines or processes; they share `output_dir`.

    Args:
        job: `Job`; the pipeline has one element per worker.
        beam_flags: list of str, flags of Beam, such as `"--runner=…"`.

    Raises:
        ImportError: if Apache Beam isn't installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            "Expected Apache Beam: pip install official_selftrain[beam]. "
            f"Received: {error}"
        ) from error
    with apache_beam.Pipeline(options=PipelineOptions(list(beam_flags))) as pipeline:
        (
            pipeline
            | apache_beam.Create(range(job.worker.count))
            | apache_beam.Reshuffle()
            | apache_beam.Map(_label_part, job)
        )


def _label_part(index, job):
    worker = label_store.Worker(index, job.worker.count)
    label(dataclasses.replace(job, worker=worker), lambda count: None)
