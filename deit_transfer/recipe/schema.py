"""The recipe schema: every setting of a run, its range and a sentence on it. No torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["finetune", "scratch", "pretrain", "teacher"]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys and later changes are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """Which images are trained on, selected on and scored."""

    dataset: str = Field(default="", description="Catalog name, or folder of class folders.")
    data_dir: str | None = Field(default=None, description="Folder that holds the dataset.")
    classes: tuple[str, ...] = Field(default=(), description="Keep only these classes.")
    rank: Literal[
        "species", "genus", "family", "order", "class", "phylum", "kingdom", "supercategory"
    ] = Field(default="species", description="What counts as a class, in iNaturalist.")
    class_order: Literal["id", "deit"] = Field(
        default="id", description="Order of iNaturalist's classes; deit: the reference code's."
    )
    train_on: Literal["train", "train+val"] = Field(
        default="train", description="Train on the official train split, or on val as well."
    )
    train_limit: int | None = Field(
        default=None, ge=2, description="Labeled images used in all, training and validation."
    )
    fraction: float | None = Field(
        default=None, gt=0, le=1, description="Share of the labeled images used, per class."
    )
    val_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of train carved off for validation."
    )
    val_limit: int = Field(
        default=5000, ge=1, description="Most images ever carved off for validation."
    )
    select: Literal["auto", "val", "test", "last"] = Field(
        default="auto",
        description="What picks the epoch; auto: val if it has 50 images or more, else the last.",
    )
    headline: Literal["top1", "mean_per_class"] = Field(
        default="top1", description="The metric that the literature reports for this dataset."
    )
    split_seed: int = Field(default=0, ge=0, description="Seed of the carved splits and subsets.")
    decode_cache_mb: int = Field(
        default=2048, ge=0, description="Keep decoded images in memory when they fit in this."
    )
    allow_bad: bool = Field(
        default=False, description="Score an unreadable test image as wrong instead of stopping."
    )


class Model(Section):
    """Which network is trained, and from which weights."""

    name: str = Field(default="deit_small_patch16_224", description="DeiT variant or timm name.")
    pretrained: str = Field(
        default="none", description="imagenet, a run, a weights file, a timm name, or none."
    )
    resolution: int | None = Field(
        default=None, ge=8, le=2048, description="Side of the square input in pixels."
    )
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="Stochastic depth, last block.")
    patch_drop: float = Field(
        default=0.0, ge=0, lt=1, description="Share of patches left out of each training image."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the head.")
    freeze: str = Field(
        default="none",
        pattern=r"^(none|head|attention|last-[1-9][0-9]*)$",
        description="Train all (none), or only: head, attention, last-N (the last N blocks).",
    )
    head_start: Literal["random", "features"] = Field(
        default="random", description="Draw a new head, or fit it to frozen features first."
    )
    keep_head: bool = Field(
        default=False, description="Keep the pretrained head when it has the same classes."
    )
    two_class_tokens: bool = Field(
        default=False, description="Control of section 4: both tokens learn the true label."
    )


class Augment(Section):
    """How training images are augmented, and how evaluation images are cropped."""

    policy: Literal["randaugment", "autoaugment", "three_augment", "none"] = Field(
        default="randaugment", description="Family of image operations."
    )
    randaugment: str = Field(
        default="rand-m9-mstd0.5-inc1", description="RandAugment setting in timm's notation."
    )
    color_jitter: float = Field(
        default=0.0, ge=0, le=1, description="Brightness, contrast and saturation jitter."
    )
    crop: Literal["resized", "simple"] = Field(
        default="resized", description="Random resized crop, or DeiT III's simple random crop."
    )
    crop_scale_min: float = Field(
        default=0.08, gt=0, le=1, description="Smallest area share of a random resized crop."
    )
    hflip: Probability = Field(default=0.5, description="Chance of a left-right flip.")
    erasing: Probability = Field(default=0.25, description="Chance of random erasing.")
    mixup: float = Field(default=0.8, ge=0, description="Mixup's Beta parameter; 0 is off.")
    cutmix: float = Field(default=1.0, ge=0, description="CutMix's Beta parameter; 0 is off.")
    mix_prob: Probability = Field(default=1.0, description="Chance that a batch is mixed at all.")
    switch_prob: Probability = Field(default=0.5, description="Chance of CutMix over Mixup.")
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="Smoothing of true labels.")
    repeats: int = Field(
        default=1, ge=1, le=10, description="Augmented views of an image in one epoch (RA)."
    )
    seed: int | None = Field(
        default=None, ge=0, description="Seed of sample order and augmentation; default: the run's."
    )
    crop_pct: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the side kept by the evaluation crop; left out: 0.9, or the "
        "reference code's 0.875 under compat.",
    )


class Optim(Section):
    """The optimizer, its rates and the loss."""

    name: Literal["adamw", "sgd", "lamb"] = Field(default="adamw", description="Optimizer.")
    peak_lr: float = Field(
        default=5e-4, gt=0, lt=10, description="Peak learning rate at batch 512 (scaled by B/512)."
    )
    floor_lr: float = Field(
        default=1e-6, ge=0, description="Learning rate at the end; not scaled; at most the peak."
    )
    warmup_lr: float = Field(default=1e-6, ge=0, description="Learning rate of step 0; not scaled.")
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="Decay of 2-D weights.")
    betas: tuple[Probability, Probability] = Field(
        default=(0.9, 0.999), description="AdamW's and LAMB's moment decays."
    )
    eps: float = Field(default=1e-8, gt=0, description="AdamW's and LAMB's epsilon.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD's momentum.")
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="Learning-rate factor per block from the head down."
    )
    clip_grad_norm: float | None = Field(
        default=None, gt=0, description="Largest gradient norm; left out: no clipping."
    )
    label_loss: Literal["ce", "bce"] = Field(
        default="ce", description="Loss on labels: cross-entropy or binary cross-entropy."
    )
    balance: Literal["none", "logits"] = Field(
        default="none", description="Train for classes as if equally frequent (logit adjustment)."
    )
    ema: bool = Field(default=True, description="Keep and score an average of the weights.")
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="Decay of the average; left out: fits the run."
    )


class Schedule(Section):
    """How long the run is, and how large a step."""

    epochs: int = Field(default=10, ge=1, description="Passes over the training images.")
    min_steps: int = Field(
        default=0, ge=0, description="Raise the epochs until the run has this many steps."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="End after this many steps, the rate falling to there."
    )
    warmup_epochs: float = Field(default=1.0, ge=0, description="Linear warm-up, in epochs.")
    batch_size: int = Field(default=64, ge=1, description="Images per step over all processes.")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Images per forward pass; left out: the batch."
    )
    progressive: tuple[tuple[int, float], ...] = Field(
        default=(),
        description="Stages [pixels, share of epochs] trained below the resolution, in order.",
    )


class Distill(Section):
    """What is learned from a teacher."""

    teacher: str | None = Field(default=None, description="A run, or a network's name.")
    kind: Literal["none", "soft", "hard"] = Field(default="none", description="Form of it.")
    through: Literal["token", "class"] = Field(
        default="token", description="The token that learns from the teacher."
    )
    alpha: Probability = Field(
        default=0.5, description="Weight of the teacher's part (lambda in the paper)."
    )
    tau: float = Field(default=3.0, gt=0, description="Temperature of soft distillation.")
    cache: str | None = Field(
        default=None, description="Folder that caches the teacher's logits between runs."
    )
    cache_top_k: int = Field(
        default=32, ge=1, description="Logits kept per image for soft distillation."
    )


class Run(Section):
    """Where and how it is computed; never changes what is computed, except `seed`."""

    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of everything random.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Device: auto, cpu, mps, cuda or cuda:N.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="Arithmetic of the forward pass; weights stay fp32."
    )
    attention: Literal["auto", "fused", "plain"] = Field(
        default="auto", description="Attention kernel; auto times both for a moment."
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        description="Let torch.compile fuse each block's layers; auto: on a GPU, in long runs.",
    )
    graph: bool | Literal["auto"] = Field(
        default="auto",
        description="Replay each step as one CUDA graph; auto: on a GPU, wherever it can be.",
    )
    workers: int | None = Field(
        default=None, ge=0, le=64, description="Loader processes; left out: fits the machine."
    )
    time_budget_minutes: float | None = Field(
        default=None, gt=0, description="Shorten the schedule so that the run fits in this."
    )
    eval_batch_size: int = Field(default=128, ge=1, description="Images per forward in scoring.")
    save_every_minutes: float = Field(
        default=10.0, gt=0, description="Longest stretch of work that a crash can lose."
    )
    nonfinite: Literal["error", "skip", "rollback"] = Field(
        default="error", description="What to do when the loss is not finite."
    )
    nonfinite_budget: int = Field(
        default=5, ge=0, description="Skips or rollbacks allowed before the run stops."
    )


class Evidence(Section):
    """What the recipe is known to give, and the source."""

    summary: str = Field(default="", description="Where the recipe comes from, in one sentence.")
    command: str = Field(default="", description="The command that was measured.")
    measured: str = Field(default="", description="Our result: mean, range and seeds.")
    paper: str = Field(default="", description="The paper's value, with its table.")
    hardware: str = Field(default="", description="Machine and versions of `measured`.")
    minutes: float | None = Field(default=None, gt=0, description="Minutes of `measured`.")


class Recipe(Section):
    """Everything that decides a run's result."""

    title: str = Field(default="", description="One line for lists.")
    mode: Mode = Field(description="finetune, scratch, pretrain or teacher.")
    compat: Literal["none", "deit"] = Field(
        default="none",
        description="`deit`: the reference code's schedule, soft loss, epochs and crop.",
    )
    data: Data = Data()
    model: Model = Model()
    augment: Augment = Augment()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    distill: Distill = Distill()
    run: Run = Run()
    evidence: Evidence = Evidence()
    sources: dict[str, str] = Field(default={}, description="Source of each value, by location.")
