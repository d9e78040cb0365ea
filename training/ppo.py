"""Proximal policy optimisation of a policy against a reward model (Ouyang et al. 2022, section 3.5 and appendix C.4).

One round, in the order of `_round`: prompts are drawn, answered by the engine that serves, and judged; rewards are the
score at the end less beta times the divergence from the start; advantages are whitened over the round; each minibatch
makes one step of the policy, the pretraining gradient in the same buffer, and one of the critic.
Invariants: all that is drawn depends on the seed and the round alone; old log-probabilities come from the trainer's own
passes and not from the engine, which rounds differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from honed.training.actors import HELD_OUT, Cast, answer, assemble, folded, judge, measure, rescale
from honed.training.configs import PPOConfig
from honed.training.encoding import Encoder
from honed.training.experience import Advantage, Judgement, Pass, Round, advantages, minibatches
from honed.training.fitting import permutation
from honed.training.forward import policy_logits, scalar_numbers
from honed.training.groups import prompts
from honed.training.learner import Average, DivergedError, State, learning_rate_factor
from honed.training.objectives import (
    adapted_coefficient,
    explained_variance,
    kl_k3,
    least_squares,
    policy_loss,
    token_logprobs,
    value_loss,
)
from honed.training.reports.tracking import read_metrics
from honed.training.run import Run, Trained
from honed.training.sharding import is_sharded
from honed.training.showcase import Showcase
from honed.training.states import load_state, save_state
from honed.training.trees import pack, plan
from honed.training.watch import Watch
from honed.training.weights import whole_state

Sums = dict[str, float]


def train_ppo(run: Run[PPOConfig], reward_folder: Path) -> Trained:
    """Raises TrainingError, PolicyError, and OSError as the disk gives it."""
    return optimise(run, assemble(run, reward_folder))


def optimise(run: Run[PPOConfig], cast: Cast) -> Trained:
    """The rounds, from the newest state where the run is resumed. Raises as `train_ppo` does."""
    config = run.config
    encoder = Encoder(cast.policy.tokenizer, config.max_tokens, config.max_new_tokens)
    asked = prompts(run.dataset.of("train"), encoder, config.max_new_tokens)
    held_out = prompts(run.dataset.of("validation"), encoder, config.max_new_tokens)[:HELD_OUT]
    showcase = Showcase(
        run.folder,
        run.dataset.of("validation"),
        cast.policy,
        cast.generator,
        max_tokens=config.max_tokens,
        answer_tokens=config.max_new_tokens,
        ranks=run.ranks,
        reward_model=cast.reward_model,
    )
    average = Average(cast.learner.masters, config.ema)
    good = {name: each.clone() for name, each in average.weights.items()}  # of the last round that was well
    coefficient = torch.tensor(config.kl_coefficient, dtype=torch.float64)
    watch = Watch(
        kl_budget=config.kl_budget, min_entropy=config.min_entropy, max_length_growth=config.max_length_growth
    )
    state: State = {
        "policy": cast.learner.state(),
        "critic": cast.critic_learner.state(),
        "average": average.state(),
        "good": good,
        "coefficient": coefficient,
    }
    if run.start_step:
        load_state(run.folder, run.start_step, state, run.ranks)
        cast.learner.publish(cast.learner.masters)
        cast.critic_learner.publish(cast.critic_learner.masters)
        for numbers in _logged_rounds(run):
            watch.see(numbers)
    else:
        showcase.before()
        run.tracker.log(0, measure(run, cast, held_out))
    stopped = None
    measured: Sums = {}
    for iteration in range(run.start_step, config.iterations):
        is_last = iteration + 1 == config.iterations
        try:
            numbers, tokens = _round(run, cast, asked, iteration, float(coefficient))
        except DivergedError as error:
            stopped = str(error)
            break
        run.tracker.log(iteration + 1, numbers, tokens=tokens)
        if (stopped := watch.see(numbers)) is not None:
            break
        for name, each in average.weights.items():  # before the update: it is what this round measured
            good[name].copy_(each)
        average.update(cast.learner.masters)
        if config.kl_target is not None:
            adapted = adapted_coefficient(
                float(coefficient), numbers["ppo/kl"], config.kl_target, config.batch_size, config.kl_horizon
            )
            coefficient.fill_(adapted)
        if (iteration + 1) % config.validate_every == 0 or is_last:
            try:
                with cast.learner.showing(average.weights):  # what would be kept
                    measured = measure(run, cast, held_out)
            except DivergedError as error:
                stopped = str(error)
                break
            run.tracker.log(iteration + 1, measured)
        if (iteration + 1) % config.save_every == 0 and not is_last:
            save_state(run.folder, iteration + 1, state, run.ranks)
    cast.learner.publish(good if stopped else average.weights)
    if stopped or (config.lora and not is_sharded(cast.policy.model)):  # else the last round measured just these
        cast = folded(run, cast, measures=bool(held_out))
        measured = measure(run, cast, held_out)
        run.tracker.log(iteration + 1, measured)
    return Trained(
        cast.policy.model,
        whole_state(cast.policy.model),
        cast.policy.tokenizer,
        measured,
        samples=showcase.after(),
        stopped=stopped,
    )


def _round(
    run: Run[PPOConfig], cast: Cast, asked: Sequence[tuple[int, ...]], iteration: int, beta: float
) -> tuple[Sums, int]:
    """One iteration: its numbers, and how many tokens it trained on."""
    config, ranks = run.config, run.ranks

    # 1. Prompts, drawn anew when all have had their turn.
    drawn_prompts = _draw_prompts(config, asked, iteration)

    # 2. Rollouts by the engine, each rank its share.
    trees, ended = answer(run, cast, drawn_prompts, config.samples_per_prompt, ("round", iteration))

    # 3. Minibatches of passes, and what the judges say of them.
    batches = minibatches(trees, ended, config.minibatches, run.tokens_per_pass, ranks.size)
    judged = [judge(run, cast, batch) for batch in batches]
    if iteration == 0:
        judged = _calibrated(config, cast, batches, judged, beta)

    # 4. Rewards and advantages over the whole round.
    seen, pushes = _advantages(config, batches, judged, beta, config.gae_lambda)

    # 5. One step of policy and critic for each minibatch.
    steps = _update(run, cast, batches, judged, pushes, iteration)

    # 6. What was seen.
    tokens = sum(tree.num_tokens for tree in trees) * config.inner_epochs
    return _numbers(seen, beta) | steps, tokens


def _calibrated(
    config: PPOConfig,
    cast: Cast,
    batches: Sequence[Sequence[Pass]],
    judged: Sequence[Sequence[Judgement]],
    beta: float,
) -> list[list[Judgement]]:
    """Brings the critic to the scale of what it is to foresee, by least squares, and gives what it would have said.

    As the reward model that it was, it knows whole answers: what it says of the beginnings of some adds more noise to
    the advantages than it explains.
    """
    nothing = [[replace(each, values=torch.zeros_like(each.values)) for each in batch] for batch in judged]
    _, to_come = _advantages(config, batches, nothing, beta, 1.0)
    values = torch.cat([each.values for batch in judged for each in batch])
    slope, shift = least_squares(values, torch.cat([each.returns for each in to_come]))
    rescale(cast, slope, shift)
    return [[replace(each, values=shift + slope * each.values) for each in batch] for batch in judged]


def _advantages(
    config: PPOConfig,
    batches: Sequence[Sequence[Pass]],
    judged: Sequence[Sequence[Judgement]],
    beta: float,
    lam: float,
) -> tuple[Round, list[Advantage]]:
    return advantages(
        [each for batch in batches for each in batch],
        [each for batch in judged for each in batch],
        beta=beta,
        gamma=config.gamma,
        lam=lam,
        missing_eos_penalty=config.missing_eos_penalty,
        whiten_rewards=config.whiten_rewards,
    )


def _logged_rounds(run: Run[PPOConfig]) -> list[Sums]:
    """What the rounds before the state measured."""
    return [line for line in read_metrics(run.folder) if "ppo/kl" in line]


def _draw_prompts(config: PPOConfig, asked: Sequence[tuple[int, ...]], iteration: int) -> list[tuple[int, ...]]:
    """The prompts of a round: all have their turn, in an order drawn anew each time, before one comes again."""
    count = config.batch_size // config.samples_per_prompt
    places = range(iteration * count, (iteration + 1) * count)
    orders = {place // len(asked): permutation(len(asked), config.seed, place // len(asked)) for place in places}
    return [asked[orders[place // len(asked)][place % len(asked)]] for place in places]


def _update(
    run: Run[PPOConfig],
    cast: Cast,
    batches: Sequence[Sequence[Pass]],
    judged: Sequence[Sequence[Judgement]],
    pushes: Sequence[Advantage],
    iteration: int,
) -> Sums:
    """The steps of a round; the means over its tokens of what was measured on the way."""
    config = run.config
    per_round = config.inner_epochs * config.minibatches
    totals: Sums = {}
    first_error = 0.0
    for index in range(per_round):
        number = index % config.minibatches
        step = iteration * per_round + index
        start = sum(map(len, batches[:number]))
        work = list(zip(batches[number], judged[number], pushes[start : start + len(batches[number])], strict=True))
        sums = _policy_gradient(run, cast, work)
        sums |= _pretraining_gradient(run, cast, step)
        sums |= _critic_gradient(run, cast, work)
        if index == 0:
            first_error = max(run.ranks.gather([sums["ratio_error"]]))
        factor = learning_rate_factor(
            step, config.iterations * per_round, warmup=config.warmup, final=config.final_learning_rate
        )
        norms = {
            "ppo/grad_norm": cast.learner.step(factor),
            "ppo/value_grad_norm": cast.critic_learner.step(factor),
        }
        del sums["ratio_error"]
        gathered = run.ranks.sum(*sums.values())
        for name, value in [*zip(sums, gathered, strict=True), *norms.items()]:
            totals[name] = totals.get(name, 0.0) + value / per_round
    return totals | {"ppo/first_ratio_error": first_error, "train/learning_rate": config.learning_rate * factor}


Work = Sequence[tuple[Pass, Judgement, Advantage]]


def _policy_gradient(run: Run[PPOConfig], cast: Cast, work: Work) -> Sums:
    """Adds the gradient of the clipped loss of a minibatch to the policy's buffer."""
    count = sum(sum(each.lengths) for each, _, _ in work)
    device = run.ranks.device
    sums = {"ppo/policy_loss": 0.0, "ppo/clip_fraction": 0.0, "ppo/approx_kl": 0.0, "ratio_error": 0.0}
    for each, old, push in run.ranks.share(work):
        packed = pack(each.trees or work[0][0].trees, device)
        logprobs = token_logprobs(policy_logits(cast.policy.model, packed), packed.target_ids, run.config.temperature)
        if not each.trees:  # the layers of a model that is shared out are gathered by all ranks or by none
            cast.learner.backward(logprobs.sum() * 0.0)
            continue
        old_logprobs = old.logprobs.to(device)
        loss, clipped = policy_loss(logprobs, old_logprobs, push.advantages.to(device), run.config.clip, count)
        cast.learner.backward(loss)
        now = logprobs.detach()
        sums["ppo/policy_loss"] += float(loss.detach())
        sums["ppo/clip_fraction"] += float(clipped.float().sum()) / count
        sums["ppo/approx_kl"] += float(kl_k3(old_logprobs, now).sum()) / count
        sums["ratio_error"] = max(sums["ratio_error"], float(torch.expm1(now - old_logprobs).abs().max()))
    return sums


def _pretraining_gradient(run: Run[PPOConfig], cast: Cast, step: int) -> Sums:
    """Adds that of the pretraining texts to the same buffer (Ouyang et al. 2022, equation 2). As a step of its own it
    would be scaled by Adam, which would cancel the coefficient."""
    config = run.config
    if cast.pretraining is None:
        return {}
    episodes = config.batch_size // config.minibatches
    trees = cast.pretraining.pieces(config.ptx_examples * episodes, config.ptx_tokens, config.seed, step)
    loss = 0.0
    count = sum(tree.num_answer_tokens for tree in trees)
    for chosen in run.ranks.share(plan([tree.num_tokens for tree in trees], run.tokens_per_pass, run.ranks.size)):
        if not chosen and not is_sharded(cast.policy.model):
            continue
        packed = pack([trees[i] for i in chosen] or trees[:1], run.ranks.device)
        logprobs = token_logprobs(policy_logits(cast.policy.model, packed), packed.target_ids)
        part = -logprobs.sum() / count * (1.0 if chosen else 0.0)
        cast.learner.backward(config.ptx_coefficient * part)
        loss += float(part.detach())
    return {"ppo/ptx_loss": loss}


def _critic_gradient(run: Run[PPOConfig], cast: Cast, work: Work) -> Sums:
    """Adds the gradient of the clipped value loss of a minibatch to the critic's buffer."""
    count = sum(sum(each.lengths) for each, _, _ in work)
    device = run.ranks.device
    sums = {"ppo/value_loss": 0.0, "ppo/value_clip_fraction": 0.0}
    for each, old, push in run.ranks.share(work):
        packed = pack(each.trees or work[0][0].trees, device)
        values = cast.critic.normalised(scalar_numbers(cast.critic, packed, packed.predictors))
        if not each.trees:
            cast.critic_learner.backward(values.sum() * 0.0)
            continue
        loss, clipped = value_loss(values, old.values.to(device), push.returns.to(device), run.config.value_clip, count)
        cast.critic_learner.backward(loss)
        sums["ppo/value_loss"] += float(loss.detach())
        sums["ppo/value_clip_fraction"] += float(clipped.float().sum()) / count
    return sums


def _numbers(seen: Round, beta: float) -> Sums:
    """What a round looked like: means over its episodes, of the very tensors that the update was made of."""
    return {
        "ppo/score": float(seen.scores.mean()),
        "ppo/score_std": float(seen.scores.std(correction=0)),
        "ppo/reward": float(seen.rewards.sum(dim=1).mean()),
        "ppo/kl": float(seen.kl.mean()),
        "ppo/kl_coefficient": beta,
        "ppo/entropy": float(seen.entropy[seen.mask].mean()),
        "ppo/length": float(seen.lengths.float().mean()),
        "ppo/ended": float(seen.ended.float().mean()),
        "ppo/explained_variance": explained_variance(seen.values[seen.mask], seen.returns[seen.mask]),
    }
