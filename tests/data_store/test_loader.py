"""Batches from a real store: the same on any number of ranks and workers and after a restart; what happens when workers or chains fail."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from foldline.data_store.config import DataConfig, FeatureConfig, initial
from foldline.data_store.featurize import inference_cycles, make_sample, training_sample
from foldline.data_store.loader import TrainLoader, collate, open_order, to_torch
from foldline.data_store.prefetch import Patience
from foldline.data_store.types import ChainRecord, FeatureBatch, Targets, TrainBatch, schema_of
from foldline.errors import FoldlineError

FEATURES = FeatureConfig(crop_size=24, max_msa_clusters=6, max_extra_msa=10, max_templates=1)


def batches(store: Path, number: int, data: DataConfig | None = None, **place: int) -> list[TrainBatch]:
    with TrainLoader(store, data or DataConfig(seed=11), FEATURES, **place) as loader:
        return list(islice(loader, number))


def tensors(batch: TrainBatch) -> list[torch.Tensor]:
    return [batch.position, *batch.targets, *(value for features in batch.cycles for value in features)]


def equal(one: Sequence[TrainBatch], other: Sequence[TrainBatch]) -> bool:
    pairs = [(tensors(a), tensors(b)) for a, b in zip(one, other, strict=True)]
    return all(torch.equal(x, y) for a, b in pairs for x, y in zip(a, b, strict=True))


def test_batches_have_the_schema_with_a_leading_dimension(demo_store: Path) -> None:
    batch = batches(demo_store, 1, micro_batch=3)[0]
    assert batch.position.tolist() == [0, 1, 2]
    sizes = {"N_res": 24, "N_clust": 6, "N_extra": 10, "N_templ": 1}
    for part in (*batch.cycles, batch.targets):
        for name, schema in schema_of(type(part)).items():
            value = getattr(part, name)
            assert value.dtype == {"int": torch.int64, "float": torch.float32}[schema.kind], name
            assert value.shape == (3, *(sizes.get(str(d), d) for d in schema.dims)), name
            assert value.is_contiguous()


def test_ranks_together_see_what_one_rank_sees(demo_store: Path) -> None:
    alone = batches(demo_store, 4, micro_batch=4)
    ranks = [batches(demo_store, 4, rank=rank, world=2, micro_batch=2) for rank in range(2)]
    for step, whole in enumerate(alone):
        assert {len(ranks[rank][step].cycles) for rank in range(2)} == {len(whole.cycles)}
        for mine, left, right in zip(tensors(whole), *(tensors(r[step]) for r in ranks), strict=True):
            assert torch.equal(mine, torch.cat([left, right]))
    assert len({len(batch.cycles) for batch in alone}) > 1


def test_workers_change_nothing(demo_store: Path) -> None:
    here = batches(demo_store, 6, micro_batch=2)
    assert equal(batches(demo_store, 6, DataConfig(seed=11, workers=2, prefetch=3), micro_batch=2), here)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_restart_continues_at_its_step(demo_store: Path, workers: int) -> None:
    whole = batches(demo_store, 6, rank=1, world=2, micro_batch=2)
    data = DataConfig(seed=11, workers=workers)
    with TrainLoader(demo_store, data, FEATURES, rank=1, world=2, micro_batch=2) as loader:
        list(islice(loader, 3))
        assert loader.consumed == (12, 3)  # what was made ahead is not consumed
    assert equal(batches(demo_store, 3, rank=1, world=2, micro_batch=2, start_step=3), whole[3:])


def test_another_world_and_micro_batch_go_on_where_the_run_stood(demo_store: Path) -> None:
    with TrainLoader(demo_store, DataConfig(seed=11), FEATURES, world=2, micro_batch=3) as loader:
        list(islice(loader, 3))
        position, step = loader.consumed
    assert position == 18
    later = [batches(demo_store, 2, rank=r, world=4, micro_batch=1, start_step=step, start_position=position) for r in range(4)]
    assert [batch.position.tolist() for rank in later for batch in rank] == [[18], [22], [19], [23], [20], [24], [21], [25]]
    alone = batches(demo_store, 2, micro_batch=4, start_step=step, start_position=position)
    assert torch.equal(alone[1].targets.positions[2], later[2][1].targets.positions[0])
    with pytest.raises(FoldlineError, match="position -1"):
        TrainLoader(demo_store, DataConfig(), FEATURES, start_position=-1)


def test_a_sample_can_be_made_again_from_its_position(demo_store: Path, records: list[ChainRecord]) -> None:
    batch = batches(demo_store, 3, rank=1, world=2, micro_batch=2)[2]
    position = int(batch.position[1])
    task = open_order(demo_store, DataConfig(seed=11), FEATURES).task(position, step=position // 4)
    record = next(r for r in records if r.metadata.chain_id == task.chain_id)
    sample = training_sample(record, FEATURES, task.seed, task.n_cycles, position)
    assert all(np.array_equal(a, b[1]) for a, b in zip(sample.cycles[-1], batch.cycles[-1], strict=True))


def test_validation_chains_are_never_trained_on(demo_store: Path, records: list[ChainRecord]) -> None:
    held_out = records[0].metadata.chain_id
    order = open_order(demo_store, DataConfig(validation=(held_out,)), FEATURES)
    assert {order.chain_at(p) for p in range(300)} == {r.metadata.chain_id for r in records} - {held_out}


def test_collate_pads_samples_of_different_sizes(records: list[ChainRecord]) -> None:
    samples = [
        make_sample(record, replace(FEATURES, crop_size=crop, max_msa_clusters=rows), 0, 2, position)
        for position, (record, crop, rows) in enumerate(zip(records, (12, 20), (5, 3), strict=False))
    ]
    batch = collate(samples)
    assert batch.cycles[1].msa_feat.shape == (2, 5, 20, 49)
    assert batch.targets.positions.shape == (2, 20, 37, 3)
    assert batch.cycles[0].seq_mask.sum(dim=1).tolist() == [12.0, 20.0]
    assert not batch.cycles[0].msa_mask[0, :, 12:].any()
    assert not batch.targets.bert_mask[1, 3:].any()
    with pytest.raises(ValueError, match="shorter"):
        collate([samples[0], make_sample(records[0], FEATURES, 0, 1)])


def test_a_sample_waits_in_a_sixth_of_its_bytes_or_less(deep: ChainRecord) -> None:
    sample = make_sample(deep, initial(), 0, 3)
    expanded = sum(value.nbytes for value in tensors(collate([sample])))
    assert len(pickle.dumps(sample, 5)) < expanded / 6


def test_inference_features_become_tensors_without_a_batch_dimension(deep: ChainRecord) -> None:
    features = to_torch(inference_cycles(deep, FEATURES, 0, 1)[0])
    assert features.msa_feat.shape == (6, len(deep.sequence), 49)
    assert features.aatype.dtype == torch.int64
    assert isinstance(features, FeatureBatch)
    assert set(schema_of(Targets)) == set(Targets._fields)


class TestFailures:
    def test_no_store_no_such_chain_no_chain_left_no_such_place(self, demo_store: Path, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="nothing"):
            TrainLoader(tmp_path / "nothing", DataConfig(), FEATURES)
        with pytest.raises(FoldlineError, match=r"data.train: the store has no chain"):
            TrainLoader(demo_store, DataConfig(train=("9zzz_Q",)), FEATURES)
        with pytest.raises(FoldlineError, match=r"none of \d+ chains"):
            TrainLoader(demo_store, DataConfig(max_single_residue=0.0), FEATURES)
        with pytest.raises(FoldlineError, match="rank 2 of 2"):
            TrainLoader(demo_store, DataConfig(), FEATURES, rank=2, world=2)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_damaged_store_names_the_sample(self, demo_store: Path, tmp_path: Path, workers: int) -> None:
        store = tmp_path / "store"
        shutil.copytree(demo_store, store)
        with TrainLoader(store, DataConfig(workers=workers), FEATURES) as loader:
            for part in (store / "parts").iterdir():
                part.write_bytes(b"damaged" * 100)
            with pytest.raises(FoldlineError, match=r"sample 0 \(chain '\w+'\)"):
                next(loader)
            assert list(loader) == []

    def test_a_killed_worker_is_replaced_and_changes_nothing(self, demo_store: Path, caplog: pytest.LogCaptureFixture) -> None:
        whole = batches(demo_store, 12)
        with TrainLoader(demo_store, DataConfig(seed=11, workers=1), FEATURES) as loader:
            first = list(islice(loader, 2))
            for worker in workers_of_this_process():
                worker.kill()
            assert equal([*first, *islice(loader, 10)], whole)
            assert loader.stats.replaced == 1
        assert "died with exit code -9" in caplog.text

    def test_a_sample_that_kills_every_worker_is_an_error_that_names_it(self, demo_store: Path) -> None:
        done = threading.Event()

        def kill_all() -> None:
            while not done.wait(0.01):
                for worker in workers_of_this_process():
                    worker.kill()

        with TrainLoader(demo_store, DataConfig(workers=1), FEATURES) as loader:
            killer = threading.Thread(target=kill_all)
            killer.start()
            try:
                with pytest.raises(FoldlineError, match=r"sample \d+ \(chain '(\w+)'\) died with exit code -9.*hold_out = \['\w+'\]"):
                    list(islice(loader, 20))
            finally:
                done.set()
                killer.join()
            assert list(loader) == []

    def test_a_slow_sample_is_named_and_does_not_stall_the_others(self, demo_store: Path, caplog: pytest.LogCaptureFixture) -> None:
        data = DataConfig(seed=11, workers=2, prefetch=6, slow_sample_seconds=0.4)
        with TrainLoader(demo_store, data, FEATURES) as loader:
            first = [next(loader)]
            assert loader._pool is not None
            worker = loader._pool._slots[0].worker
            held = psutil.Process(worker.pid)
            held.suspend()
            while worker.task is None:  # all was made before it stood still: it gets the next task, or the one after
                first.append(next(loader))
            caplog.clear()
            # Of those under way it holds one, and one more is asked for when the next batch is: the other worker makes all the rest.
            wait_until(lambda: loader.stats.ready == loader.stats.ahead - 2)
            wait_until(lambda: f"worker {held.pid} is" in caplog.text)
            message = next(r.getMessage() for r in caplog.records if f"worker {held.pid} is" in r.getMessage())
            assert f"'{loader.order.chain_at(int(message.split()[2]))}'" in message
            held.resume()
            assert equal([*first, *islice(loader, 7)], batches(demo_store, len(first) + 7))
            assert loader.stats.replaced == 0

    def test_a_stuck_worker_is_killed_and_its_sample_made_by_another(self, demo_store: Path, caplog: pytest.LogCaptureFixture) -> None:
        whole = batches(demo_store, 10)
        with TrainLoader(demo_store, DataConfig(seed=11, workers=1), FEATURES) as loader:
            first = [next(loader)]
            assert loader._pool is not None
            loader._pool._patience = Patience(0.2, 0.6)  # not from the start: a new worker takes longer to start
            workers_of_this_process()[0].suspend()
            wait_until(lambda: loader.stats.replaced == 1)
            loader._pool._patience = Patience(60.0, 600.0)
            assert equal([*first, *islice(loader, 9)], whole)
        assert re.search(r"sample \d+ \(chain '\w+'\) was stuck and killed after data.stuck_sample_seconds = 0.6", caplog.text)

    def test_a_closed_loader_ends_and_leaves_no_process(self, demo_store: Path) -> None:
        before = set(psutil.Process().children(recursive=True))
        loader = TrainLoader(demo_store, DataConfig(workers=1), FEATURES)
        next(loader)
        loader.close()
        assert next(loader, None) is None
        left = set(psutil.Process().children(recursive=True)) - before
        assert not [p for p in left if "spawn_main" in " ".join(p.cmdline())]

    def test_workers_end_when_their_trainer_is_killed(self, demo_store: Path, tmp_path: Path) -> None:
        script = tmp_path / "trainer.py"
        script.write_text(
            textwrap.dedent(f"""
            if __name__ == "__main__":
                import time
                from pathlib import Path
                from foldline.data_store.config import DataConfig, FeatureConfig, initial
                from foldline.data_store.loader import TrainLoader

                loader = TrainLoader(Path({str(demo_store)!r}), DataConfig(workers=1), FeatureConfig(crop_size=16))
                next(loader)
                print("ready", flush=True)
                time.sleep(60)
            """)
        )
        trainer = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        children = psutil.Process(trainer.pid).children(recursive=True)
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
        alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        for process in alive:
            process.kill()
        assert children
        assert not alive


def test_workers_need_no_torch() -> None:
    code = "import sys, foldline.data_store.prefetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_samples_are_made_before_they_are_asked_for_and_no_more_than_agreed(demo_store: Path) -> None:
    with TrainLoader(demo_store, DataConfig(workers=1, prefetch=3), FEATURES, micro_batch=2) as loader:
        next(loader)
        wait_until(lambda: loader.stats.ready == loader.stats.ahead - 1)  # one more is asked for when the next batch is
        time.sleep(0.3)
        assert loader.stats.ready < loader.stats.ahead == 6
        start = time.perf_counter()
        assert next(loader).position.tolist() == [2, 3]
        assert loader.stats.wait_seconds <= time.perf_counter() - start


@pytest.mark.slow
def test_memory_of_a_worker_does_not_grow_over_ten_thousand_samples(demo_store: Path) -> None:
    resident = []
    with TrainLoader(demo_store, DataConfig(workers=1, prefetch=8), FEATURES) as loader:
        for number, _ in enumerate(islice(loader, 10_000)):
            if number % 1000 == 999:
                resident.append(workers_of_this_process()[0].memory_info().rss / 2**20)
    assert max(resident[2:]) - resident[1] < 8.0, resident


def workers_of_this_process() -> list[psutil.Process]:
    """The data workers, the oldest first."""
    children = psutil.Process().children()
    found = []
    for child in children:
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return sorted(found, key=lambda p: p.create_time())


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
