"""The run, from the first rank to the last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from ..cluster.ranks import RankInfo, discover
from ..data_store.loader import TrainLoader
from ..data_store.outage import StorePatience
from ..data_store.store import Store
from ..errors import UNAVAILABLE
from ..model.precision import describe, find_policy
from ..model.weights import load_weights
from .advance import Stepper
from .best import agree
from .checkpoint import MODEL
from .checkpoint_writer import Policy
from .checkpoints import Checkpoints
from .config import RunConfig, load_config, passes_per_step, samples_per_step, store_patience
from .crash import Crash
from .ema import Ema
from .engine import deepspeed_json, initialize, require_deepspeed, start_process_group, stop_process_group
from .heartbeat import Heartbeat, LostRankError, end
from .partitions import master_partitions
from .places import take_places
from .preflight import check
from .recorder import Recorder
from .resume import going_on, share_out
from .run_state import FAILED, LOST, tell
from .rundir import RunDir, check_start
from .start import check_initial, initial_metrics, load_initial
from .step import TrainingStep
from .straggler import Stragglers
from .tracking.tracker import check_tracking
from .validate import Validator

STOPPED = 75  # exit code after SIGTERM or SIGUSR1: a checkpoint was saved, start again with --resume (EX_TEMPFAIL)


def train_command(config_path: Path, overrides: Sequence[str], resume: bool) -> int:
    """``foldline train``: 0 when all steps are done, 75 when a signal ended the run after a checkpoint. LostRankError ends the process."""
    config = load_config(config_path, overrides)
    check_start(config, resume)
    if not resume:
        check_initial(config)
    require_deepspeed()
    check_tracking(config)
    ready = check(config, discover(), whole=False)
    if ready.code:
        return ready.code
    try:
        code = train(config, resume)
        dist.barrier()  # ranks end together: a launcher kills the rest when the first leaves with a code
        return code
    except LostRankError as lost:
        tell_end(RunDir(Path(config.run.dir)), lost.exit_code)
        end(str(lost), lost.exit_code)
        raise
    finally:
        stop_process_group()


def train(config: RunConfig, resume: bool) -> int:
    """Train to ``config.run.steps`` in ``config.run.dir``; every rank of the job calls it. Returns the exit code."""
    ranks = discover()
    device = start_process_group(config, ranks)
    run, stage = RunDir(Path(config.run.dir)), config.deepspeed.zero_stage
    store = Store.open(config.data.store, StorePatience(store_patience(config)))
    torch.manual_seed(config.run.seed)  # the same weights on every rank
    module = TrainingStep(config).to(device)
    inline = config.validate.mode == "inline"
    policy = Policy(config.run.keep_last, config.run.keep_every, config.run.checkpoint_mirror, inline)

    with Recorder(config, run, ranks) as recorder, Crash(run, config, ranks) as crash, ExitStack() as held:
        checkpoints = held.enter_context(Checkpoints(run, stage, store.content_hash, policy, asynchronous=config.run.checkpoint_async))
        step, mlflow_run, imported = 0, "", None
        found = checkpoints.newest(recorder.say) if resume else None
        if found:
            config = share_out(config, found, ranks.world)
            load_weights(found.path / MODEL, module.model)
            step, mlflow_run = found.manifest.step, found.manifest.mlflow_run
        elif config.run.init_weights:
            imported = import_weights(module, config, store, ranks, device)
        engine = initialize(module, config, ranks.world)
        ema = Ema(master_partitions(engine, stage), config.optim.ema_decay)
        if found:
            checkpoints.restore(engine, ema, found)
            recorder.say(going_on(found, config, ranks.world))
        places = take_places(ranks, config, device)
        ending = partial(tell_end, run)
        heartbeat = held.enter_context(Heartbeat(run.ranks, ranks, places, config.run.collective_timeout, ending, crash.capture))
        loader = held.enter_context(open_loader(config, store, ranks, step))
        stepper = Stepper(engine, iter(loader), config, device)
        stragglers = Stragglers(places)
        crash.follow(config, loader.order)
        held.push(crash.seen)  # at once, before the heartbeat looks around for who is lost
        validator = Validator(config, store, loader.order.chain_ids, device) if inline else None
        recorder.start(step if resume else None, mlflow_run, deepspeed_json(config, ranks.world), places, store)
        if imported is not None:
            recorder.imported(*imported)
        for line in describe(find_policy(config.deepspeed.precision)):
            recorder.say(line)
        if step >= config.run.steps:
            recorder.say(f"all {config.run.steps} steps are done; raise run.steps to go on")
        if step == 0 and validator:
            recorder.validated(0, validator.run(checkpoints.weights(engine, ema.averages)), validator.chains)
        verdict = agree(run.journal, config, checkpoints.steps())
        while step < config.run.steps and not stepper.stopped and not verdict.ends:
            step += 1
            heartbeat.at(step, "training")
            crash.at(step)
            metrics = stepper.advance(step, ema)
            recorder.trained(step, metrics | stragglers.seen(step, stepper.paces), stepper.skips.notice)
            recorder.tell(stragglers.news())
            stepper.skips.check_budget(step)
            last = step == config.run.steps
            saves = last or stepper.stopped or step % config.run.checkpoint_every == 0
            judged = validator and (last or (config.validate.every and step % config.validate.every == 0))
            if validator and judged:
                heartbeat.at(step, "validating")
                recorder.validated(step, validator.run(checkpoints.weights(engine, ema.averages)), validator.chains)
            if judged or saves:
                verdict = agree(run.journal, config, [*checkpoints.steps(), step])
            if saves or verdict.ends or step in verdict.best:
                heartbeat.at(step, "saving")
                samples, lacking = step * samples_per_step(config, ranks.world), recorder.saving()
                checkpoints.save(engine, ema, step, samples, recorder.mlflow_run, verdict.best, lacking)
            recorder.tell(checkpoints.news())
        heartbeat.at(step, "saving")
        checkpoints.finish()
        recorder.tell(checkpoints.news())
        if verdict.ends:
            recorder.say(verdict.ends)
        elif step < config.run.steps:
            recorder.stopped()
            recorder.say(f"stopped by a signal after step {step}; go on with --resume")
            return STOPPED
    return 0


def tell_end(run: RunDir, code: int) -> None:
    """Say what became of a run whose rank 0 may be unable to."""
    tell(run.state, LOST if code == UNAVAILABLE else FAILED)


def open_loader(config: RunConfig, store: Store, ranks: RankInfo, step: int) -> TrainLoader:
    """This rank's batches of the steps after ``step``."""
    passes = passes_per_step(config, ranks.world)
    return TrainLoader(
        store.path,
        replace(config.data, store_patience=store_patience(config)),
        config.features,
        rank=ranks.rank,
        world=ranks.world,
        micro_batch=config.run.micro_batch,
        start_step=step * passes,
        accumulate=passes,
    )


def import_weights(
    module: TrainingStep, config: RunConfig, store: Store, ranks: RankInfo, device: torch.device
) -> tuple[str, dict[str, float]]:
    """Load ``run.init_weights``: a line that says so, and the loss of these weights on the first step's samples. Collective."""
    said = load_initial(module.model, config)
    with open_loader(config, store, ranks, 0) as batches:
        return said, initial_metrics(module, iter(batches), passes_per_step(config, ranks.world), device)
