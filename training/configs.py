"""The settings of a training run: one frozen model a stage, each field with its own documentation.

The command line's options and the tables of docs/training.md are made of these fields, and the values that a run used
are written into its checkpoint's lineage. Ranges are checked here; whether a model, a file or a disk is there is not
(`preflight.py`). Defaults are InstructGPT's (arXiv:2203.02155, appendix C) where they scale down.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stage: TypeAlias = Literal["sft", "reward", "ppo", "dpo", "kto"]
STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo", "dpo", "kto")

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class DataConfig(BaseModel):
    """Which rows of the data a run reads, and which it holds out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field("store", description="What to train on: `store`, a snapshot's id (`data-...`), or a file.")
    validation: float = Field(
        0.1, ge=0, description="Prompts held out to measure on: a share below 1, or a number of them from 1 on."
    )
    validation_data: str | None = Field(
        None,
        description="With a file as `data`: the file to measure on, in the place of prompts that are held out.",
    )
    test: float = Field(
        0.0, ge=0, description="Prompts that no run reads but that of a `judge`, counted as `validation` is."
    )
    disjoint: bool = Field(
        False,
        description="Give each prompt to one of SFT, reward model and PPO alone, by `stage_shares`, as InstructGPT.",
    )
    stage_shares: tuple[float, float, float] = Field(
        (0.2, 0.45, 0.35), description="With `disjoint`: the shares of SFT, reward model and PPO."
    )
    max_per_user: Count = Field(200, description="Most prompts of one user.")
    split_seed: int = Field(0, description="Draws the held-out prompts; change it only with all data anew.")
    judge: bool = Field(
        False,
        description="Learn from the test prompts, and hold out some of those: for a reward model that judges what was "
        "trained on the others.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> DataConfig:
        if min(self.stage_shares) < 0 or abs(sum(self.stage_shares) - 1) > 1e-6:
            raise ValueError("stage_shares: three shares that add up to 1")
        return self

    @model_validator(mode="after")
    def _check_validation_data(self) -> DataConfig:
        """A default was asked for by nobody."""
        defaults = DataConfig.model_fields
        names = ("validation", "test", "judge") if self.validation_data is not None else ()
        if others := [name for name in names if getattr(self, name) != defaults[name].default]:
            raise ValueError(f"validation_data: with a file to measure on nothing is held out: leave out {others[0]}")
        return self


class RunConfig(DataConfig):
    """What all stages have in common."""

    model: str = Field("smollm2-135m-instruct", description="Checkpoint to start from: a name, a folder or a hub id.")
    output: str | None = Field(None, description="Name of the new checkpoint; unset, the model's and the stage's.")
    resume: bool = Field(False, description="Go on with the run of this output that was cut off.")
    seed: int = Field(0, ge=0, description="Of everything that is drawn: order, dropout, samples.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Numbers to compute in; the optimizer's are float32. `auto`: bfloat16 where it is native."
    )
    device: str = Field("auto", description="`cpu`, `cuda` or `cuda:N`; `auto` takes a GPU where there is one.")
    sharding: Literal["none", "full"] = Field(
        "none",
        description="Under torchrun: `none` keeps a whole model on every rank (DDP), `full` shares one out (FSDP2).",
    )
    lora: bool = Field(False, description="Train low-rank adapters instead of all weights.")
    lora_rank: Count = Field(16, description="Rank of the adapters.")
    lora_alpha: Positive = Field(32, description="Scale of the adapters, divided by their rank.")
    max_tokens: Count = Field(1024, description="Longest prompt and answer together, in tokens.")
    tokens_per_pass: int = Field(
        0,
        ge=0,
        description="Tokens of one forward pass; 0 is 512 on a CPU and 8192 on a GPU.",
    )
    learning_rate: Positive = Field(1e-5, description="At its peak.")
    warmup: Share = Field(0.05, description="Share of the steps in which the learning rate rises.")
    final_learning_rate: float = Field(0.1, ge=0, le=1, description="Share of the peak that the cosine ends at.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's.")
    max_grad_norm: Positive = Field(1.0, description="Gradients are scaled down to this norm.")
    save_every: Count = Field(10, description="Steps between two states that a cut-off run can go on from.")


class SFTConfig(RunConfig):
    """Supervised fine-tuning on demonstrations and corrections, loss on the answers alone."""

    learning_rate: Positive = Field(1e-4, description="At its peak; a larger model wants a smaller one.")
    epochs: Count = Field(3, description="How often each demonstration is seen.")
    batch_size: Count = Field(8, description="Demonstrations a step, over all ranks.")
    dropout: Share = Field(0.0, description="Residual dropout; InstructGPT took 0.2 for 16 epochs.")
    reward_model: str | None = Field(None, description="Chooses among the epochs by reward; unset, by loss.")


class RewardConfig(RunConfig):
    """A reward model from rankings and comparisons: all pairs of a prompt are one element of a batch."""

    learning_rate: Positive = Field(5e-5, description="At its peak; a larger model wants a smaller one.")
    epochs: Count = Field(2, description="InstructGPT took 1: with many rankings more than one overfits.")
    batch_size: Count = Field(4, description="Prompts a step, over all ranks; InstructGPT took 64.")
    answer_tokens: Count = Field(256, description="Longest answer, in tokens; of a longer one the beginning is judged.")
    margin: bool = Field(False, description="Ask for a gap that grows with the distance of the ranks.")


class PPOConfig(RunConfig):
    """Proximal policy optimisation against a reward model, held near the policy that it starts from."""

    reward_model: str | None = Field(None, description="The reward model; the value network starts as its copy.")
    learning_rate: Positive = Field(
        1.5e-4, description="The policy's, at its peak; a larger model wants a smaller one."
    )
    value_learning_rate: Positive = Field(5e-5, description="The value network's, which starts as the reward model.")
    warmup: Share = Field(0.1, description="Share of the steps in which the learning rates rise.")
    final_learning_rate: float = Field(0.3, ge=0, le=1, description="Share of the peaks that the cosine ends at.")
    validate_every: Count = Field(5, description="Iterations between two measurements on held-out prompts.")
    save_every: Count = Field(2, description="Iterations between two states that a cut-off run can go on from.")
    iterations: Count = Field(20, description="Rounds of rollouts and updates.")
    batch_size: Count = Field(128, description="Episodes a round, over all ranks; InstructGPT took 512.")
    minibatches: Count = Field(4, description="Optimizer steps that a round's episodes are shared out to.")
    inner_epochs: Count = Field(1, description="How often a round's episodes are used.")
    samples_per_prompt: Count = Field(
        16,
        description="Episodes that share a prompt, read once for all; of fewer than five their baseline is noise.",
    )
    max_new_tokens: Count = Field(64, description="Longest answer, in tokens.")
    temperature: Positive = Field(1.0, description="Of the rollouts, and of all log-probabilities.")
    kl_coefficient: float = Field(0.015, ge=0, description="Beta: what a nat of divergence from the start costs.")
    kl_target: float | None = Field(
        None, gt=0, description="Nats an answer that the coefficient is adapted to (Ziegler et al. 2019); unset, fixed."
    )
    kl_horizon: Count = Field(512, description="With `kl_target`: episodes over which the coefficient adapts.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount.")
    gae_lambda: float = Field(
        1.0, ge=0, le=1, description="Of the generalised advantage estimate; 1 goes by what came of an answer."
    )
    clip: Positive = Field(0.2, description="Range of the probability ratio.")
    value_clip: Positive = Field(0.2, description="Range of a value's change, in units of reward.")
    whiten_rewards: bool = Field(False, description="Scale the rewards of a round to a standard deviation of 1.")
    missing_eos_penalty: float = Field(0.25, ge=0, description="Taken from the reward of an answer that did not end.")
    pretraining: str | None = Field(None, description="File of texts to keep the language from (PPO-ptx); unset, none.")
    ptx_coefficient: float = Field(27.8, ge=0, description="Weight of the pretraining texts' gradient.")
    ptx_examples: Count = Field(8, description="Pretraining texts an episode.")
    ptx_tokens: int = Field(128, ge=2, description="Tokens of a pretraining text.")
    ema: Share = Field(0.992, description="Decay of the averaged weights that become the checkpoint; 0 takes the last.")
    kl_budget: Positive = Field(20.0, description="Nats an answer at which a run is stopped as sick.")
    max_length_growth: Positive = Field(3.0, description="Growth of the answers, as a factor, that stops a run.")
    min_entropy: float = Field(0.05, ge=0, description="Nats a token below which a run is stopped.")

    @model_validator(mode="after")
    def _check_sizes(self) -> PPOConfig:
        if self.batch_size % (self.samples_per_prompt * self.minibatches):
            least = self.samples_per_prompt * self.minibatches
            raise ValueError(f"batch_size: a multiple of samples_per_prompt times minibatches, {least}")
        return self

    @model_validator(mode="after")
    def _check_target(self) -> PPOConfig:
        """The coefficient is multiplied, by at least 1 - batch_size / (5 * kl_horizon)."""
        if self.kl_target is None:
            return self
        if self.kl_coefficient == 0:
            raise ValueError("kl_coefficient: above 0, for what is multiplied to reach kl_target")
        if self.batch_size >= 5 * self.kl_horizon:
            raise ValueError(f"kl_horizon: more than a fifth of batch_size, {self.batch_size / 5:g}")
        return self


class DPOConfig(RunConfig):
    """Direct preference optimisation on comparisons and rankings (arXiv:2305.18290), by TRL."""

    learning_rate: Positive = Field(5e-6, description="At its peak.")
    epochs: Count = Field(1, description="How often each pair is seen.")
    batch_size: Count = Field(16, description="Pairs a step, over all ranks.")
    beta: Positive = Field(0.1, description="How strongly the policy is held to where it starts from.")


class KTOConfig(RunConfig):
    """Kahneman-Tversky optimisation on thumbs (arXiv:2402.01306), by TRL."""

    learning_rate: Positive = Field(5e-6, description="At its peak.")
    epochs: Count = Field(1, description="How often each thumb is seen.")
    batch_size: int = Field(16, ge=2, description="Thumbs a step, over all ranks.")
    beta: Positive = Field(0.1, description="How strongly the policy is held to where it starts from.")


CONFIGS: dict[Stage, type[RunConfig]] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "ppo": PPOConfig,
    "dpo": DPOConfig,
    "kto": KTOConfig,
}
