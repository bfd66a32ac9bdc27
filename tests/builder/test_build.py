"""What a build repeats, and what it refuses before it begins; the whole line runs in tests/triton/test_build.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_builder.build import BuildOptions, build
from dyndet_builder.build_steps import Job, steps_of
from dyndet_builder.calibration.topology import Compared, RouteMeans, TopologyChoice
from dyndet_builder.cli.measured import topology_sentence
from dyndet_builder.repository.marker import read_marker
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.server.remote import RemoteServer
from dyndet_builder.steps import Step, locked, run_steps
from dyndet_builder.targets import parse_targets
from tests.support.toy_bundle import write_toy_bundle

REMOTE = RemoteServer(url="gpu-host:8001", models="/mnt/models")


def test_the_topology_is_named_with_the_measurements_that_chose_it() -> None:
    choice = TopologyChoice(
        topology="fused",
        measured={"bls": RouteMeans(easy_ms=10.31, hard_ms=17.41), "fused": RouteMeans(easy_ms=7, hard_ms=11.6)},
        load="concurrency 1",
        rounds=5,
    )
    assert topology_sentence("fused", asdict(choice)) == (
        "Topology: fused (easy 7.00 ms, hard 11.60 ms), faster than bls (easy 10.31 ms, hard 17.41 ms)."
    )
    assert topology_sentence("bls", None) == "Topology: bls."


def test_instances_and_threads_are_named_with_the_measurements_that_chose_them() -> None:
    means = RouteMeans(easy_ms=20, hard_ms=31.25), RouteMeans(easy_ms=24.5, hard_ms=40)
    choice = TopologyChoice(
        topology="fused",
        instances=4,
        threads=1,
        measured={"fused": means[0]},
        compared=(
            Compared(topology="fused", instances=4, threads=1, means=means[0]),
            Compared(topology="fused", instances=1, threads=0, means=means[1]),
        ),
        load="concurrency 8",
        rounds=5,
    )
    assert topology_sentence("fused", asdict(choice)) == (
        "Topology: fused 4 x 1 threads (easy 20.00 ms, hard 31.25 ms), faster at concurrency 8 than "
        "fused 1 x all threads (easy 24.50 ms, hard 40.00 ms)."
    )
    assert choice.applied(RenderOptions(max_batch=2)) == RenderOptions(
        topology="fused", instances=4, threads=1, max_batch=2
    )


@pytest.mark.parametrize(
    ("options", "topology", "division"),
    [
        (BuildOptions(), True, False),
        (BuildOptions(load=Load(concurrency=8)), True, True),
        (BuildOptions(load=Load(request_rate=20)), True, True),
        (BuildOptions(load=Load(batch=4)), True, True),
        (BuildOptions(load=Load(concurrency=8), topology="fused"), False, True),
        (BuildOptions(load=Load(concurrency=8), rendering=RenderOptions(threads=1)), True, False),
        (BuildOptions(load=Load(concurrency=8), division="given"), True, False),
        (BuildOptions(load=Load(concurrency=8), rendering=RenderOptions(backend="onnxruntime")), False, False),
        (BuildOptions(load=Load(concurrency=8), rendering=RenderOptions(gpus=(0,))), False, False),
        (BuildOptions(load=Load(concurrency=8), remote=REMOTE), False, False),
    ],
)
def test_a_build_measures_what_the_load_can_decide_and_the_embedded_server_can_show(
    options: BuildOptions, topology: bool, division: bool
) -> None:
    assert (options.measures_topology, options.measures_division) == (topology, division)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A build whose bundle is there; nothing in these tests exports, renders or measures."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "one.png").write_bytes(b"a picture")
    (tmp_path / "network.safetensors").write_bytes(b"weights")
    write_toy_bundle(tmp_path / "out" / "bundle")
    return Job(
        source=tmp_path / "network.safetensors",
        output=tmp_path / "out",
        images=images,
        targets=parse_targets("50%"),
        options=BuildOptions(),
    )


@contextmanager
def another_machine() -> Iterator[None]:
    """This one, with one core less."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this machine has one core")
    os.sched_setaffinity(0, sorted(cores)[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def done_in(job: Job) -> list[str]:
    """Names of the steps that a run does; what they would do is left out, and their results count as there."""
    done: list[str] = []

    def noted(step: Step) -> Step:
        return replace(step, act=lambda: done.append(step.name), is_whole=lambda: True)

    run_steps([noted(step) for step in steps_of(job)], job.output, fresh=job.options.fresh)
    return done


def with_options(job: Job, options: BuildOptions) -> Job:
    return replace(job, options=options)


def test_a_second_run_does_nothing_and_a_fresh_one_everything(job: Job) -> None:
    assert done_in(job) == ["export", "render", "calibrate"]
    assert done_in(job) == []
    assert done_in(with_options(job, BuildOptions(fresh=True))) == ["export", "render", "calibrate"]


@pytest.mark.parametrize(
    ("options", "repeated"),
    [
        (BuildOptions(), ["render", "calibrate"]),
        (BuildOptions(topology="fused"), ["calibrate"]),
        (BuildOptions(rendering=RenderOptions(backend="onnxruntime")), ["calibrate"]),
        (BuildOptions(remote=REMOTE), ["calibrate"]),
    ],
    ids=["measured", "given", "only one", "of a remote server"],
)
def test_another_machine_calibrates_anew_and_chooses_the_topology_anew_where_it_is_measured(
    job: Job, options: BuildOptions, repeated: list[str]
) -> None:
    """The output folder is on a disk that both machines share."""
    job = with_options(job, options)
    done_in(job)
    with another_machine():
        assert done_in(job) == repeated
        assert done_in(job) == []


@pytest.mark.parametrize(
    ("options", "repeated"),
    [
        (BuildOptions(name="street"), ["export", "render", "calibrate"]),
        (BuildOptions(parity_images=4), ["export", "render", "calibrate"]),
        (BuildOptions(topology="fused"), ["render", "calibrate"]),
        (BuildOptions(rendering=RenderOptions(threads=1)), ["render", "calibrate"]),
        (BuildOptions(load=Load(concurrency=4)), ["render", "calibrate"]),
        (BuildOptions(topology="bls", load=Load(concurrency=4)), ["render", "calibrate"]),
        (BuildOptions(topology="bls", division="given", load=Load(request_rate=4)), ["calibrate"]),
    ],
)
def test_an_option_repeats_the_steps_that_depend_on_it(job: Job, options: BuildOptions, repeated: list[str]) -> None:
    """The load decides which topology, instances and threads are the fastest, if they are measured."""
    done_in(with_options(job, BuildOptions(topology="bls")) if options.topology == "bls" else job)
    assert done_in(with_options(job, options)) == repeated


def test_a_changed_picture_or_checkpoint_repeats_everything(job: Job) -> None:
    done_in(job)
    (job.images / "two.png").write_bytes(b"another picture")
    assert done_in(job) == ["export", "render", "calibrate"]
    job.source.write_bytes(b"other weights")
    assert done_in(job) == ["export", "render", "calibrate"]


def test_a_step_that_fails_is_done_again_and_what_came_before_it_is_not(tmp_path: Path) -> None:
    done: list[str] = []
    fails = True

    def measure() -> None:
        done.append("measure")
        if fails:
            raise InputError("no server")

    steps = [
        Step(name="make", depends_on=dict, act=lambda: done.append("make"), is_whole=lambda: True),
        Step(name="measure", depends_on=dict, act=measure, is_whole=lambda: True),
    ]
    with pytest.raises(InputError):
        run_steps(steps, tmp_path)
    fails = False
    assert run_steps(steps, tmp_path) == ("make",)
    assert done == ["make", "measure", "measure"]


def test_a_result_that_is_gone_takes_what_was_made_from_it_with_it(tmp_path: Path) -> None:
    done: list[str] = []
    there = {"make": True, "measure": True}
    steps = [
        Step(
            name=name, depends_on=dict, act=lambda name=name: done.append(name), is_whole=lambda name=name: there[name]
        )
        for name in there
    ]
    run_steps(steps, tmp_path)
    there["make"] = False
    run_steps(steps, tmp_path)
    assert done == ["make", "measure"] * 2


def test_engines_are_a_step_where_the_build_provides_them(job: Job, tmp_path: Path) -> None:
    rendering = RenderOptions(backend="tensorrt", gpus=(0,))
    own = with_options(job, BuildOptions(rendering=rendering, remote=REMOTE))
    assert [step.name for step in steps_of(own)] == ["export", "engines", "render", "calibrate"]
    assert own.rendering.engines == job.output / "engines"
    given = replace(rendering, engines=tmp_path / "plans")
    brought = with_options(job, BuildOptions(rendering=given, remote=REMOTE))
    assert [step.name for step in steps_of(brought)] == ["export", "render", "calibrate"]
    assert brought.rendering.engines == tmp_path / "plans"


@pytest.mark.parametrize(
    ("rendering", "option"),
    [
        (RenderOptions(name="other"), "name"),
        (RenderOptions(topology="fused"), "topology"),
        (RenderOptions(warmup_image=Path("photo.jpg")), "warmup_image"),
    ],
)
def test_what_a_build_sets_itself_is_refused_in_its_rendering(rendering: RenderOptions, option: str) -> None:
    with pytest.raises(InputError, match=f"a build sets the {option} of its rendering itself"):
        BuildOptions(rendering=rendering)


def test_a_topology_that_the_backend_lacks_leaves_no_folder(job: Job, tmp_path: Path, demo_images: Path) -> None:
    options = BuildOptions(topology="fused", rendering=RenderOptions(backend="onnxruntime"))
    with pytest.raises(InputError, match="choose the topology bls"):
        build(job.source, tmp_path / "new", images=demo_images, targets=job.targets, options=options)
    assert not (tmp_path / "new").exists()


def test_a_build_refuses_early_a_batch_that_its_detector_does_not_take() -> None:
    with pytest.raises(InputError, match="takes batches of at most 8, so it cannot be measured with 99"):
        BuildOptions(load=Load(batch=99))


def test_a_build_of_another_name_does_not_destroy_the_detector_in_its_folder(job: Job, demo_images: Path) -> None:
    render(job.bundle, job.repository, RenderOptions(name="other"))
    with pytest.raises(InputError, match="model_repository holds the detector 'other', not 'dyndet'"):
        build(job.source, job.output, images=demo_images, targets=job.targets)
    assert list(read_marker(job.repository).detectors) == ["other"]


def test_a_lock_that_is_a_link_or_a_pipe_is_neither_emptied_nor_waited_for(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    for name, put in {
        "link": lambda path: path.symlink_to(tmp_path / "precious"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
    }.items():
        (tmp_path / name).mkdir()
        put(tmp_path / name / ".lock")
        with (
            pytest.raises(InputError, match=r"\.lock .*; remove it, or name another --output"),
            locked(tmp_path / name),
        ):
            pytest.fail("the folder is reserved")
        assert (tmp_path / name / ".lock").exists()
    assert (tmp_path / "precious").read_text() == "years of work"
