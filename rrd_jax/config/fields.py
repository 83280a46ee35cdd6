"""Every field of a config: its default, the values that it can have, and what it means.

Any field can be set on the command line, --config.optimizer.learning_rate=0.1, and --print_config
shows them all with their values of a run.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from rrd_jax.config.kinds import (
    LARGEST,
    Choice,
    Flag,
    Integer,
    Kind,
    Mapped,
    Numbers,
    Optional,
    Real,
    Text,
)
from rrd_jax.config.options import Options
from rrd_jax.data.augment.erasing import ERASED
from rrd_jax.data.augment.mixing import MIXES
from rrd_jax.data.augment.pipeline import TEACHERS_VIEWS
from rrd_jax.data.augment.policies import POLICIES
from rrd_jax.data.source import (
    DECODERS,
    DEVICE_AUGMENTATIONS,
    FEEDS,
    HOST_AUGMENTATIONS,
    KEEPS,
    NOISES,
)
from rrd_jax.training.choices import CACHE_DTYPES, CACHE_PLACES, CACHES, HEADS, INTERPOLATIONS

_DTYPES = ("auto", "float32", "bfloat16")
_PIXELS = Integer(4, 32767)  # fewer leave batch norms nothing; OpenCV scales to no more
_COUNT = Integer(1)
_MEAN = Numbers(Real(minimum=0, maximum=1), lengths=(1, 3))
_STD = Numbers(Real(minimum=1e-4, maximum=1), lengths=(1, 3))
_SEED = Integer(0, LARGEST)
_RATE = Real(above=0, maximum=1e6)
_FACTOR = Real(above=0, maximum=1)
_RATIO = Real(minimum=1, maximum=1e6)
_PART = Real(minimum=0, below=1)
_CHANCE = Real(minimum=0, maximum=1)
_HEAD = (
    "The classifier of weights that it starts from: keep, new, or auto, which keeps it where the"
    " classes are as many, and have the same names where these are known."
)
_FREEZE = (
    "Parts whose weights and running statistics stay as they are, separated by |: stem, stage1,"
    " stage2 and so on, backbone (all but the classifier), or regular expressions for paths of"
    " modules or parameters, such as layer1_.*; '' for none."
)
_BACKBONE = "Factor of the learning rate, for all but the classifier."


class Field(NamedTuple):
    """A field of a config.

    Attributes:
      path: its name, behind those of its sections.
      default: of CIFAR-100's recipe (arXiv 2407.12073, 1910.10699).
      kind: the values that it can have.
      meaning: what it is, and what its values do.
    """

    path: str
    default: Any
    kind: Kind
    meaning: str


FIELDS = (
    Field("name", "", Text(), "The job's name; its default workdir is runs/<name>."),
    Field("seed", 0, _SEED, "Initial weights, order and augmentation all follow from it."),
    Field(
        "dtype",
        "auto",
        Choice(_DTYPES),
        "What convolutions compute in; auto: bfloat16 on accelerators, else float32.",
    ),
    Field(
        "space_to_depth",
        False,
        Flag(),
        "Computes the 7x7 convolutions that ImageNet's ResNets start with on 2x2 pixels at once,"
        " which differs by rounding only. Some accelerators are quicker with it, a CPU is slower.",
    ),
    Field(
        "fast_cpu",
        True,
        Flag(),
        "On a CPU: compiler options and forms of convolutions that are faster there; numbers differ"
        " by rounding. Without it grouped convolutions take many times as long.",
    ),
    Field(
        "compilation_cache",
        "",
        Text(),
        "Folder of compiled programs, for the next start; '' for JAX_COMPILATION_CACHE_DIR or"
        " ~/.cache/rrd_jax, where each kind of processor has its own; off for none.",
    ),
    Field(
        "shard_parameters",
        False,
        Flag(),
        "Devices share parameters, their average and the optimizer's state, instead of a copy on"
        " each.",
    ),
    Field("method", "", Text(), "What the objectives are called in tables."),
    Field(
        "objectives",
        {},
        Mapped(),
        "name: {weight, warmup, options}; `python -m rrd_jax.objectives` lists the objectives. One"
        " by import path has a field `factory` too, such as 'my_losses:angular', and may have any"
        " name.",
    ),
    # The images.
    Field(
        "data.name",
        "",
        Text(),
        "digits, fashion_mnist, cifar10, cifar100, stl10, tiny_imagenet, imagenet2012,"
        " image_folder, any TFDS set of labelled images, an import path such as my_data:source of"
        " random-access sources, or hf:PATH for a Hugging Face data set on disk.",
    ),
    Field(
        "data.options",
        {},
        Mapped(),
        "Of a set by import path: the arguments of its function beside the split. Of hf:PATH: the"
        " columns, if there are several, data.options.image and data.options.label.",
    ),
    Field(
        "data.dir",
        "",
        Text(),
        "Where prepared sets are; '' for TFDS_DATA_DIR or ~/tensorflow_datasets.",
    ),
    Field(
        "data.manual_dir",
        "",
        Text(),
        "The folder of images of image_folder, which is read in place; or that of fashion_mnist's"
        " files, where '' is Debian's folder.",
    ),
    Field(
        "data.class_names",
        "",
        Text(),
        "A file of class names, in place of the data's own: text with a name on each line; or"
        " JSON, a list or {\"0\": name}; '' for the data's own.",
    ),
    Field(
        "data.use_labels",
        True,
        Flag(),
        "False: labels are not read, whatever the data have: the student learns from the teacher"
        " alone. Objectives that need labels are left out or refused, and image_folder takes images"
        " wherever they lie in it.",
    ),
    Field(
        "data.max_images",
        None,
        Optional(_COUNT),
        "image_folder without labels only: how many of its images are used, for a try; None: all.",
    ),
    Field("data.train_split", "train", Text(), "TFDS split expressions, such as train[:90%]."),
    Field(
        "data.test_split",
        "test",
        Text(),
        "validation for imagenet2012 and tiny_imagenet. Where a folder of images has no test, test"
        " is its val.",
    ),
    # Training data made worse on purpose; test images stay as they are.
    Field(
        "data.share",
        1.0,
        _FACTOR,
        "Below 1: the part of data.train_split that is used, in the proportions of the classes,"
        " with an image of each at least.",
    ),
    Field(
        "data.per_class",
        0,
        Integer(0),
        "Above 0: the number of random training images of each class; all where it has fewer.",
    ),
    Field(
        "data.imbalance",
        1.0,
        _RATIO,
        "Above 1: how many times as many images the first class has as the last one. Images are"
        " left out until the classes, in the order of labels, are a long tail (arXiv 1901.05555).",
    ),
    Field(
        "data.label_noise",
        0.0,
        _PART,
        "The share of training labels that are made wrong, exactly so many in each class.",
    ),
    Field(
        "data.noise",
        "symmetric",
        Choice(NOISES),
        "How labels are made wrong. symmetric: any other class, each as likely; asymmetric: the"
        " next class, also called pair flip.",
    ),
    Field(
        "data.noise_seed",
        0,
        _SEED,
        "Chooses the images that data.share, data.per_class and data.imbalance leave, and the"
        " labels that are made wrong; independent of seed.",
    ),
    Field(
        "data.image_size",
        32,
        _PIXELS,
        "Height and width; smaller images are centred on black, larger ones scaled.",
    ),
    Field(
        "data.resize",
        256,
        _PIXELS,
        "random_resized only: short side that test images are scaled to before their central crop.",
    ),
    Field(
        "data.augment",
        "crop_flip",
        Choice((*DEVICE_AUGMENTATIONS, *HOST_AUGMENTATIONS)),
        "crop_flip and resized_crop in the step; random_resized on the host, which cuts stored"
        " images of any size. The latter two scale a random part.",
    ),
    Field(
        "data.crop_area",
        0.08,
        _FACTOR,
        "random_resized and resized_crop only: the smallest part of an image; MoCo-v2's is 0.2.",
    ),
    Field(
        "data.feed",
        "auto",
        Choice(FEEDS),
        "resident: on the device; streamed: decoded as used; auto: by size, 4 GB.",
    ),
    Field(
        "data.workers",
        0,
        Integer(0, 1024),
        "Processes that decode streamed images; 0 for threads of one process.",
    ),
    Field(
        "data.decoder",
        "auto",
        Choice(DECODERS),
        "random_resized only: what decodes JPEGs. cv2: all of an image; nvimgcodec: its crop alone,"
        " to the same pixels (`pip install 'rrd_jax[nvimgcodec]'`); auto: nvimgcodec where it is"
        " installed.",
    ),
    Field(
        "data.keep",
        "auto",
        Choice(KEEPS),
        "Which streamed training images stay decoded in the host's memory. auto: all of a set that"
        " fits; on: as many as fit; off: none.",
    ),
    Field(
        "data.keep_share",
        0.5,
        _FACTOR,
        "Part of the host's free memory that data.keep takes at most, in each process.",
    ),
    Field(
        "data.pad",
        4,
        Integer(0, 16383),
        "crop_flip only: pixels of black on each side; at most data.image_size.",
    ),
    Field("data.flip", True, Flag(), "Mirrors half of the images; crop_flip and resized_crop."),
    # Which views there are. View v of image i follows from (data.views.seed, i, v).
    Field(
        "data.views.count",
        0,
        Integer(0, 10**6),
        "Above 0: that many views of each image, whatever the augmentation, so that a teacher can"
        " be remembered (teacher.cache): an image shows each once in so many epochs. 0: fresh ones"
        " for ever.",
    ),
    Field(
        "data.views.seed",
        0,
        _SEED,
        "Which views these are, whatever the seed of the run: runs share what a teacher says of"
        " them.",
    ),
    Field(
        "data.views.teacher",
        "same",
        Choice(TEACHERS_VIEWS),
        "same: the teacher sees what the student sees; weak: the crop alone, without what follows"
        " here.",
    ),
    Field(
        "data.views.others",
        (),
        Numbers(_CHANCE, lengths=(0, 2)),
        "Probabilities of blur and solarising of every other view; () for the same. DINO's are"
        " (0.1, 0.2), with 1 and 0 for the first.",
    ),
    # In the step, after the crop; teacher and student see the same.
    Field(
        "data.policy",
        "none",
        Choice(POLICIES),
        "rand: RandAugment with torchvision's amounts; rand_increasing: with timm's, as in"
        " rand-m9-mstd0.5-inc1 with policy_noise 0.5; trivial: TrivialAugment, wide.",
    ),
    Field(
        "data.policy_operators",
        2,
        Integer(1, 16),
        "rand only: operators that an image goes through.",
    ),
    Field(
        "data.policy_magnitude",
        9.0,
        Real(minimum=0, maximum=30),
        "rand and rand_increasing: how much each operator changes; at most 30, of the latter 10.",
    ),
    Field(
        "data.policy_noise",
        0.0,
        Real(minimum=0, maximum=1e3),
        "rand and rand_increasing: standard deviation of the magnitudes.",
    ),
    Field(
        "data.jitter",
        (0.0, 0.0, 0.0, 0.0),
        Numbers(Real(minimum=0, maximum=10), lengths=(4,)),
        "Colour jitter: ranges of brightness, contrast, saturation (factors of 1 - range to 1 +"
        " range) and hue (at most 0.5 turns); SimCLR's are (0.8, 0.8, 0.8, 0.2).",
    ),
    Field(
        "data.jitter_probability", 1.0, _CHANCE, "Probability of colour jitter; SimCLR's is 0.8."
    ),
    Field("data.grey", 0.0, _CHANCE, "Probability that an image is turned to greyscale."),
    Field(
        "data.gaussian_blur",
        0.0,
        _CHANCE,
        "Probability of Gaussian blur, with a deviation of 0.1 to 2 pixels.",
    ),
    Field(
        "data.solarize",
        0.0,
        _CHANCE,
        "Probability that an image's values from 128 on are inverted.",
    ),
    Field(
        "data.erase",
        0.0,
        _CHANCE,
        "Probability that a random box of 2 % to a third of the image is erased, after"
        " normalisation; DeiT's is 0.25.",
    ),
    Field(
        "data.erase_with",
        "pixels",
        Choice(ERASED),
        "pixels: noise; colour: one random colour; mean: that of the data.",
    ),
    Field(
        "data.mix",
        "none",
        Choice(MIXES),
        "Mixes each training image with another of its batch; the teacher sees the mixture."
        " mixup+cutmix draws one of the two for each batch.",
    ),
    Field(
        "data.mix_alpha",
        1.0,
        Real(minimum=1e-3, maximum=1e3),
        "The share of an image is drawn from Beta(alpha, alpha).",
    ),
    Field(
        "data.cutmix_alpha",
        1.0,
        Real(minimum=1e-3, maximum=1e3),
        "mixup+cutmix only: alpha of cutmix; data.mix_alpha is then mixup's (DeiT: 0.8).",
    ),
    Field("data.mix_switch", 0.5, _CHANCE, "mixup+cutmix only: the share of batches with cutmix."),
    Field("data.mix_probability", 1.0, _CHANCE, "Probability that a batch is mixed at all."),
    Field(
        "data.mean",
        (0.5071, 0.4867, 0.4408),
        _MEAN,
        "Mean of each channel, of values in [0, 1].",
    ),
    Field(
        "data.std",
        (0.2675, 0.2565, 0.2761),
        _STD,
        "Standard deviation of each channel, likewise.",
    ),
    Field(
        "data.mock_examples",
        0,
        Integer(0, 10**8),
        "Above 0: that many random images stand in for each split; for a set by import path or hf,"
        " its own first ones.",
    ),
    # The network that is trained.
    Field(
        "student.model",
        "",
        Text(),
        "A name that `python -m rrd_jax.networks` lists, or an import path such as my_nets:Small.",
    ),
    Field(
        "student.options",
        {},
        Mapped(),
        "Arguments of a network by import path; embedding_of says where its embedding is.",
    ),
    Field(
        "student.checkpoint",
        "",
        Text(),
        "Weights that it starts from, as teacher.checkpoint has them; '' for random ones. They are"
        " read before the first step, and never again.",
    ),
    Field(
        "student.drop_path",
        0.0,
        _PART,
        "Share of images for which the last block is left out in training; of the blocks before it"
        " in proportion to their depth. For transformers, ConvNeXt, EfficientNet, MobileNetV3 and"
        " V4, and RegNetY.",
    ),
    Field("student.head", "auto", Choice(HEADS), _HEAD),
    Field("student.freeze", "", Text(), _FREEZE),
    Field("student.backbone_rate", 1.0, _FACTOR, _BACKBONE),
    # The network that it learns from; of several, config.teacher is a list of these.
    Field("teacher.model", "", Text(), "As student.model; '' for a run without a teacher."),
    Field("teacher.options", {}, Mapped(), "As student.options."),
    Field(
        "teacher.checkpoint",
        "",
        Text(),
        "The workdir of a run, or RUN@best, RUN@last, RUN@STEP; a folder of rrd_jax.convert;"
        " a .pth or .safetensors file, or FILE@KEY for the weights under a key of it; hf:FOLDER, a"
        " folder of transformers, which names teacher.model if that is ''; '' to train the teacher"
        " in <workdir>/teacher first.",
    ),
    Field(
        "teacher.fine_tune",
        False,
        Flag(),
        "Trains the teacher from teacher.checkpoint to these images first, in <workdir>/teacher."
        " Flags for both teacher.checkpoint and teacher.epochs imply it.",
    ),
    Field("teacher.drop_path", 0.0, _PART, "As student.drop_path, where it is trained."),
    Field("teacher.head", "auto", Choice(HEADS), "As student.head, where it is trained."),
    Field("teacher.freeze", "", Text(), "As student.freeze, where it is trained."),
    Field("teacher.backbone_rate", 1.0, _FACTOR, "As student.backbone_rate, where it is trained."),
    Field(
        "teacher.dtype",
        "",
        Choice(("", *_DTYPES)),
        "What its convolutions compute in as a teacher; '': as dtype, in which it is trained"
        " anyway.",
    ),
    Field("teacher.seed", 0, _SEED, "The seed of its training."),
    Field("teacher.train_split", None, Optional(Text()), "None: as data.train_split."),
    Field("teacher.share", None, Optional(_FACTOR), "None: as data.share; 1: all images."),
    Field("teacher.per_class", None, Optional(Integer(0)), "None: as data.per_class; 0: all."),
    Field("teacher.imbalance", None, Optional(_RATIO), "None: as data.imbalance; 1: as they are."),
    Field("teacher.label_noise", None, Optional(_PART), "None: as data.label_noise; 0: none."),
    Field(
        "teacher.use_labels",
        None,
        Optional(Flag()),
        "None: as data.use_labels; True: it is trained with labels here, for a student without.",
    ),
    Field("teacher.epochs", None, Optional(_COUNT), "None: as train.epochs."),
    Field("teacher.learning_rate", None, Optional(_RATE), "None: as optimizer.learning_rate."),
    Field(
        "teacher.cache",
        "auto",
        Choice(CACHES),
        "Remembers the teacher's embeddings of all views of the training images (162 of each with"
        " crop_flip, otherwise data.views.count), instead of running it at each step: in memory,"
        " and on disk beside the teacher for later runs. auto: where there is room and there are"
        " more epochs than views, or they are on disk already.",
    ),
    Field(
        "teacher.cache_place",
        "auto",
        Choice(CACHE_PLACES),
        "Where steps read them: device, or with data.views.count host, its memory, or file, a"
        " file's pages. auto: the first that half of the device or a quarter of the host has room"
        " for.",
    ),
    Field(
        "teacher.cache_dtype",
        "auto",
        Choice(CACHE_DTYPES),
        "What they are kept in. auto: what the teacher computes in, logits in float32; bfloat16"
        " keeps three digits of each number, in half of the memory.",
    ),
    Field(
        "teacher.weight",
        1.0,
        Real(above=0, maximum=1e9),
        "Its weight among several teachers, such as --config.teacher[0].weight=2.",
    ),
    # How it sees images, where that is not the student's way; and logits that are not its own.
    Field(
        "teacher.mean",
        None,
        Optional(_MEAN),
        "Mean of the images that it sees. None: as its weights say (config.json beside a file, the"
        " run), else as data.mean. What differs is applied on the device, before its first layer.",
    ),
    Field(
        "teacher.std",
        None,
        Optional(_STD),
        "Their standard deviation. None: likewise, else as data.std.",
    ),
    Field(
        "teacher.image_size",
        None,
        Optional(_PIXELS),
        "Their height and width. None: likewise, else as data.image_size.",
    ),
    Field(
        "teacher.interpolation",
        "auto",
        Choice(("auto", *INTERPOLATIONS)),
        "How images are scaled to its image_size, antialiased, where that is another. auto: as its"
        " weights say, else bilinear.",
    ),
    Field(
        "teacher.probe",
        False,
        Flag(),
        "Trains a linear classifier on its embeddings of the training images, seen as test images"
        " are, in place of its own: a teacher without one, or with other classes, has logits then.",
    ),
    Field(
        "teacher.probe_l2",
        1.0,
        Real(above=0, maximum=1e9),
        "Regularisation of the probe, scikit-learn's 1 / C: sum of the images' losses + probe_l2 /"
        " 2 |W|^2, on standardised embeddings.",
    ),
    Field(
        "teacher.class_vectors",
        "",
        Text(),
        "A .npy, .npz or .safetensors file of a vector for each class [C, D], such as a text"
        " encoder's: logits are cosines to them (zero-shot). D is that of its embedding, or of its"
        " classifier, which is then CLIP's projection.",
    ),
    Field(
        "teacher.class_vectors_scale",
        100.0,
        Real(above=0, maximum=1e6),
        "Factor of the cosines; exp(logit_scale) of CLIP.",
    ),
    Field("baseline", False, Flag(), "Trains the student alone too, in <workdir>/alone."),
    Field(
        "from_scratch",
        False,
        Flag(),
        "Where the student starts from student.checkpoint, trains it from random weights too, in"
        " <workdir>/scratch, without student.freeze and student.backbone_rate. The table says what"
        " the checkpoint is worth.",
    ),
    # How every parameter is trained.
    Field(
        "optimizer.name",
        "sgd",
        Text(),
        "sgd (as PyTorch's); adam, adamw, lamb, lion, rmsprop, muon or any other factory of optax"
        " and optax.contrib; or an import path MODULE:NAME of a function learning_rate, options ->"
        " GradientTransformation.",
    ),
    Field(
        "optimizer.options",
        {},
        Mapped(),
        "The optimizer's own arguments, such as b1 and b2 of adamw.",
    ),
    Field("optimizer.learning_rate", 0.05, _RATE, "The learning rate after the warm-up."),
    Field(
        "optimizer.momentum",
        0.9,
        Real(minimum=0, below=1),
        "Momentum of sgd; other optimizers have theirs in optimizer.options.",
    ),
    Field("optimizer.nesterov", False, Flag(), "Nesterov's momentum, of sgd."),
    Field(
        "optimizer.weight_decay",
        5e-4,
        Real(minimum=0, maximum=1e6),
        "This times the parameters is added to their gradient, or decoupled where the optimizer"
        " does that (adamw, lamb, lion, muon).",
    ),
    Field(
        "optimizer.decay_norm_and_bias",
        True,
        Flag(),
        "False: scales of norms, and biases, do not decay.",
    ),
    Field(
        "optimizer.clip_norm",
        0.0,
        Real(minimum=0, maximum=1e6),
        "Above 0: gradients are shortened to this length; 0: never.",
    ),
    Field(
        "optimizer.layer_decay",
        1.0,
        Real(above=0, maximum=1),
        "Below 1: blocks of the student learn more slowly the earlier they come, each at this times"
        " the rate of the next, as in timm.",
    ),
    Field(
        "optimizer.schedule",
        "milestones",
        Text(),
        "milestones, cosine, linear, constant, wsd, exponential; or an import path MODULE:NAME of a"
        " function learning_rate, steps, options -> (step -> rate).",
    ),
    Field(
        "optimizer.schedule_options",
        {},
        Mapped(),
        "Of wsd: decay_epochs (None: a fifth), decay_shape (linear, cosine); of exponential:"
        " decay_rate (0.97), every_epochs (1), staircase.",
    ),
    Field(
        "optimizer.milestones",
        (0.625, 0.75, 0.875),
        Numbers(Real(above=0, below=1), ascending=True, unit=", fractions of the run,"),
        "When the rate falls, as fractions of the run: epochs 150, 180, 210 of 240.",
    ),
    Field(
        "optimizer.decay",
        0.1,
        Real(above=0, maximum=1),
        "Factor of the learning rate at each milestone.",
    ),
    Field(
        "optimizer.warmup_epochs",
        0.0,
        Real(minimum=0),
        "Epochs in which the rate grows linearly, before any schedule.",
    ),
    Field("optimizer.warmup_start", 0.0, Real(minimum=0), "Rate of the first step of the warm-up."),
    Field(
        "optimizer.final_learning_rate",
        0.0,
        Real(minimum=0),
        "The rate at the end of cosine, linear, wsd and exponential.",
    ),
    # The steps and epochs.
    Field("train.epochs", 240, _COUNT, "Passes over the training split."),
    Field(
        "train.batch_size",
        64,
        _COUNT,
        "Images of a step, over all devices; the last partial batch of an epoch is dropped.",
    ),
    Field(
        "train.accumulate",
        1,
        _COUNT,
        "Parts that a batch is walked in, one after the other, to save memory: each is normalised"
        " by its own statistics, and compared with the memory that the parts before it were pushed"
        " to.",
    ),
    Field(
        "train.remat",
        "none",
        Choice(("none", "convolutions", "all")),
        "What of the trained network is computed twice, for memory: none; what is between"
        " convolutions, whose results are kept (convolutions); all that is inside residual blocks.",
    ),
    Field(
        "train.ema",
        0.0,
        Real(minimum=0, below=1),
        "Decay of an average of the student's weights, such as 0.9999, which is then what is tested"
        " and exported; 0 for none.",
    ),
    Field("train.eval_batch_size", 500, _COUNT, "The most images of an evaluation step."),
    Field(
        "train.steps_per_dispatch",
        0,
        Integer(0),
        "The most steps that one call to the devices makes, where the set is resident. Between"
        " calls losses are looked at, checkpoints written and SIGTERM obeyed. 0: on accelerators a"
        " second's or so, on a CPU one.",
    ),
    Field("train.log_every", 50, _COUNT, "Steps between two looks at the losses."),
    Field(
        "train.save_every",
        0,
        Integer(0),
        "Steps between checkpoints inside an epoch; 0: at its end only.",
    ),
    # What held-out images show of a student beside its teacher.
    Field(
        "eval.proof",
        False,
        Flag(),
        "Whether the student's embeddings of held-out images are compared with the teacher's, which"
        " needs no label.",
    ),
    Field("eval.proof_images", 2000, Integer(3), "The most held-out images for eval.proof."),
    Field(
        "eval.every", 1, _COUNT, "Epochs between two looks at them; the last epoch always has one."
    ),
    Field(
        "eval.knn",
        False,
        Flag(),
        "Whether nearest images and a linear probe classify test images at the end, by embeddings"
        " of the student, of the teacher, and of a student with random weights.",
    ),
    Field(
        "eval.labelled",
        "",
        Text(),
        "Other images with labels, by which eval.knn is done at each look, also for data without"
        " labels: a folder with a folder for each class, or with train and test, or a name as in"
        " data.name.",
    ),
    Field(
        "eval.labelled_per_class",
        0,
        Integer(0),
        "How many of eval.labelled's training images there are of each class; 0 for all.",
    ),
)
BY_PATH = {field.path: field for field in FIELDS}


def defaults() -> ConfigDict:
    """CIFAR-100's recipe (arXiv 2407.12073, 1910.10699): every field with its default."""
    config = ConfigDict()
    for path, default, kind, _ in FIELDS:
        *sections, name = path.split(".")
        holder = config
        for section in sections:
            if section not in holder:
                holder[section] = ConfigDict()
            holder = holder[section]
        if path == "objectives":
            holder[name] = ConfigDict()
        elif isinstance(kind, Mapped):
            holder[name] = Options()
        else:
            is_open = isinstance(kind, Optional)
            holder[name] = config_dict.placeholder(kind.type) if is_open else default
    return config


def imagenet() -> ConfigDict:
    """ImageNet's recipe: 100 epochs of batch 256, learning rate 0.1, milestones 30, 60, 90."""
    config = defaults()
    config.data.name = "imagenet2012"
    config.data.test_split = "validation"
    config.data.image_size = 224
    config.data.augment = "random_resized"
    config.data.mean, config.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.milestones = (0.3, 0.6, 0.9)
    config.train.epochs = 100
    config.train.batch_size = 256
    config.train.save_every = 1000
    return config


def deit() -> ConfigDict:
    """ImageNet's images by DeiT's recipe (arXiv 2012.12877), without its repeated augmentation.

    300 epochs of batch 1024 by AdamW; `methods.smooth_labels` has its label smoothing, 0.1.
    """
    config = imagenet()
    config.data.policy = "rand_increasing"
    config.data.policy_noise = 0.5
    config.data.erase = 0.25
    config.data.mix, config.data.mix_alpha = "mixup+cutmix", 0.8
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay_norm_and_bias = False
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.warmup_start = 1e-6
    config.optimizer.final_learning_rate = 1e-5
    config.train.epochs = 300
    config.train.batch_size = 1024
    config.train.ema = 0.99996
    return config
