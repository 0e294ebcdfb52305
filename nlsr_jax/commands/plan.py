r"""Show how many bytes a device needs for a model on a mesh, without a device and without allocating memory.

  nlsr plan --model llama3_70b --mesh 1,8,1 --rank 128 --memory 80
  nlsr plan --model DIR --batch_size 16 --length 1024
  nlsr plan --model llama3_70b --stream --rank 16 --rows 400 --memory 32

--model is a published model or a Hugging Face directory, of which only config.json is read. Identification
processes --batch_size rows on each device, training over all of them; generation is counted as if each device held
all rows. The column "streamed" is a gradient by `nlsr realign --stream`, which holds the layer inputs of all --rows
calibration rows; if these exceed a quarter of the free memory, they are on disk. XLA needs additional memory: leave
a fifth of the memory free.

--stream shows peak memory, disk and time of that gradient alone. The time is an estimate from the speed of the
disk (--reading) and of matrix products (--tflops), which are timed on this machine for a second by default.
"""

from absl import flags

from nlsr_jax.commands import command, mesh_flags, path_flags
from nlsr_jax.errors import InputError

path_flags.define_input(
    "model", None, "A published model, such as llama3_8b, or a Hugging Face directory.", required=True
)
mesh_flags.define_mesh_flag()
flags.DEFINE_integer("batch_size", 8, "Rows.", lower_bound=1)
flags.DEFINE_integer("length", 512, "Tokens per row.", lower_bound=1)
flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16", "float16"], "Dtype of weights and passes.")
flags.DEFINE_integer("rank", 128, "Rank of the adapter on all seven projections.", lower_bound=1)
flags.DEFINE_bool("remat", True, "Recompute activations in the backward pass instead of storing them.")
flags.DEFINE_integer("rows", 8, "Calibration rows in all, for the streamed pass.", lower_bound=1)
flags.DEFINE_float("memory", None, "Memory of a device in GB: show which stages fit.", lower_bound=0)
flags.DEFINE_bool("stream", False, "Show what `nlsr realign --stream` takes: peak memory, disk and time.")
flags.DEFINE_float("reading", 1.0, "With --stream: gigabytes that the disk reads in a second.", lower_bound=1e-6)
flags.DEFINE_float(
    "tflops", None, "With --stream: 10^12 operations of matrix products in a second; by default measured here.",
    lower_bound=1e-6,
)  # fmt: skip
FLAGS = flags.FLAGS


def main(_) -> None:
    """Plan and print."""
    import pathlib

    from nlsr_jax.architecture.known import KNOWN, known_config
    from nlsr_jax.formats.hugging_face import read_config
    from nlsr_jax.planning import Load, plan
    from nlsr_jax.training.settings import LoraSettings

    if pathlib.Path(FLAGS.model).is_dir():
        config = read_config(FLAGS.model)
    elif FLAGS.model in KNOWN:
        config = known_config(FLAGS.model)
    else:
        expected = ", ".join(KNOWN)
        raise InputError(f"--model is {FLAGS.model!r}; expected a Hugging Face directory or one of {expected}")
    load = Load(
        mesh=mesh_flags.mesh_shape() or (1, 1, 1),
        batch_size=FLAGS.batch_size,
        length=FLAGS.length,
        dtype=FLAGS.dtype,
        lora=LoraSettings(rank=FLAGS.rank, alpha=2.0 * FLAGS.rank),
        remat=FLAGS.remat,
        rows=FLAGS.rows,
    )
    if FLAGS.stream:
        _show_streamed(config, load)
    else:
        _show(plan(config, load), load)


def _show(found, load) -> None:
    """Print a table with one column per stage."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{FLAGS.model}: bytes on each device, mesh {'x'.join(map(str, load.mesh))}")
    table.add_column("")
    for stage in found.stages:
        table.add_column(stage, justify="right")
    for part, size in found.parts.items():
        table.add_row(part, *(_text(size) if part in parts else "" for parts in found.stages.values()))
    table.add_section()
    table.add_row("together", *(_text(found.total(stage)) for stage in found.stages))
    if FLAGS.memory is not None:
        limit = 0.8e9 * FLAGS.memory
        fits = ("yes" if found.total(stage) <= limit else "no" for stage in found.stages)
        table.add_row(f"fits in {FLAGS.memory:g} GB, a fifth left free", *fits)
    Console(width=100).print(table)


def _show_streamed(config, load) -> None:
    """Print the parts of the peak, what lies on disk, and the time."""
    from nlsr_jax.files.memory import available_bytes
    from nlsr_jax.planning import Speed, measure_speed, plan_streamed

    free = available_bytes() if FLAGS.memory is None else int(1e9 * FLAGS.memory)
    found = plan_streamed(config, load, None if free is None else free // 4)
    given = FLAGS.tflops is not None
    reading = 1e9 * FLAGS.reading
    speed = Speed(1e12 * FLAGS.tflops, reading) if given else measure_speed(config, load.dtype, reading)
    print(
        f"{FLAGS.model}, streamed: {load.rows} rows of {load.length} tokens, batches of {load.batch_size}, rank "
        f"{load.lora.rank}, {load.dtype}"
    )
    for part, size in found.memory.items():
        print(f"  {part:<26}{_text(size):>12}")
    print(f"peak memory: {_text(found.peak)}")
    where = (
        f"{_text(found.disk)} of layer inputs in a file beside the output, deleted at the end"
        if found.disk
        else "none"
    )
    print(f"disk: {where}; the base's weights are read twice, {_text(found.reading)}")
    print(
        f"time: about {_time(found.seconds(speed))}, for {found.operations:.2g} operations at "
        f"{speed.operations / 1e12:.3g} TFLOP/s ({'--tflops' if given else 'measured here'}) and "
        f"{FLAGS.reading:g} GB/s of the disk (--reading)"
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    command.run(main)
