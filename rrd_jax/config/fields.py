"""Every field of a config with its default and meaning.

Any field can be set on the command line: --config.optimizer.learning_rate=0.1
"""

from ml_collections import ConfigDict, config_dict

from rrd_jax.config.options import Options


def defaults() -> ConfigDict:
    """CIFAR-100's recipe (arXiv 2407.12073, 1910.10699)."""
    config = ConfigDict()
    config.name = ""  # of the job; its default workdir is runs/<name>
    config.seed = 0  # initial weights, order and augmentation all follow from it
    config.dtype = "auto"  # of convolutions: float32, bfloat16; auto is bfloat16 on accelerators
    # Computes the 7x7 convolutions that ImageNet's ResNets start with on 2x2 pixels at once, which
    # differs by rounding only. Some accelerators are quicker with it, a CPU is slower.
    config.space_to_depth = False
    # Devices share parameters, their average and the optimizer's state, instead of a copy on each.
    config.shard_parameters = False
    config.method = ""  # what the objectives below are called in tables
    # name: {weight, warmup, options}; `python -m rrd_jax.objectives` lists the objectives. One by
    # import path has a field `factory` too, such as "my_losses:angular", and may have any name.
    config.objectives = ConfigDict()

    config.data = data = ConfigDict()
    # digits, fashion_mnist, cifar10, cifar100, stl10, tiny_imagenet, imagenet2012, image_folder,
    # any TFDS set of labelled images, an import path such as my_data:source of random-access
    # sources, or hf:PATH for a Hugging Face data set on disk
    data.name = ""
    # By import path: what its function takes beside the split. For hf: the columns, if there are
    # several, data.options.image and data.options.label.
    data.options = Options()
    data.dir = ""  # where prepared sets are; "" for TFDS_DATA_DIR or ~/tensorflow_datasets
    data.manual_dir = ""  # root of image_folder; files of fashion_mnist, "" for Debian's folder
    data.train_split = "train"  # TFDS split expressions, such as train[:90%]
    data.test_split = "test"  # validation for imagenet2012, tiny_imagenet, a folder with val
    data.image_size = 32  # smaller images are centred on black, larger ones scaled
    data.resize = 256  # random_resized only: short side before the central crop of test images
    data.augment = "crop_flip"  # none, crop_flip (in the step), random_resized (on the host)
    data.feed = "auto"  # resident: on the device; streamed: decoded as used; auto: by size, 4 GB
    data.workers = 0  # processes that decode streamed images; 0 for threads of one process
    data.pad = 4  # crop_flip only: pixels of black on each side
    data.flip = True  # crop_flip only: mirror half of the images
    # mixup or cutmix: each training image with another of its batch; the teacher sees the mixture
    data.mix = "none"
    data.mix_alpha = 1.0  # the share of an image is drawn from Beta(alpha, alpha)
    data.mean = (0.5071, 0.4867, 0.4408)  # per channel, of values in [0, 1]
    data.std = (0.2675, 0.2565, 0.2761)
    # Above 0: that many random images stand in for each split; for a set by import path or hf, its
    # own first ones.
    data.mock_examples = 0

    config.student = ConfigDict()
    # A name of rrd_jax.networks.MODELS, or an import path such as my_nets:Small.
    config.student.model = ""
    config.student.options = Options()  # of a network by import path: its arguments, embedding_of

    config.teacher = teacher = ConfigDict()
    teacher.model = ""  # as student.model; "" for a run without a teacher
    teacher.options = Options()  # as student.options
    # The workdir of a run, a folder that rrd_jax.convert wrote, a .pth or a .safetensors file; ""
    # to train the teacher in <workdir>/teacher first.
    teacher.checkpoint = ""
    # Of its convolutions as a teacher: float32, bfloat16, auto; "" as config.dtype, in which it is
    # trained in any case.
    teacher.dtype = ""
    teacher.seed = 0
    teacher.train_split = config_dict.placeholder(str)  # None: as data.train_split
    teacher.epochs = config_dict.placeholder(int)  # None: as train.epochs
    teacher.learning_rate = config_dict.placeholder(float)  # None: as optimizer.learning_rate
    # Remembers the teacher's embeddings of all views of the training images (162 of each with
    # crop_flip), in the precision that it computes in, instead of running it at each step: in
    # memory, and on disk beside the teacher for later runs. on, off; auto: where half of the
    # memory is enough and there are more epochs than views, or they are on disk already.
    teacher.cache = "auto"
    # Of several teachers (--config.teacher[0].weight=2), relative to the others'.
    teacher.weight = 1.0
    config.baseline = False  # train the student alone too, in <workdir>/alone

    config.optimizer = optimizer = ConfigDict()  # of every trained parameter
    # sgd (as PyTorch's); adam, adamw, lamb, lion, rmsprop, muon or any other factory of optax and
    # optax.contrib; or an import path MODULE:NAME of a function learning_rate, options ->
    # GradientTransformation.
    optimizer.name = "sgd"
    optimizer.options = Options()  # the optimizer's own arguments, such as b1 and b2 of adamw
    optimizer.learning_rate = 0.05
    optimizer.momentum = 0.9  # of sgd; other optimizers have theirs in options
    optimizer.nesterov = False  # of sgd, likewise
    # Times the parameters: added to their gradient, or decoupled where the optimizer does that
    # (adamw, lamb, lion, muon).
    optimizer.weight_decay = 5e-4
    optimizer.decay_norm_and_bias = True  # False: scales of norms, and biases, do not decay
    optimizer.clip_norm = 0.0  # above 0: gradients are shortened to this length; 0: never
    # Below 1: blocks of the student learn more slowly the earlier they come, each at this times the
    # rate of the next, as in timm.
    optimizer.layer_decay = 1.0
    # milestones, cosine, linear, constant, wsd, exponential; or an import path MODULE:NAME of a
    # function learning_rate, steps, options -> (step -> rate).
    optimizer.schedule = "milestones"
    # Of wsd: decay_epochs (None: a fifth), decay_shape (linear, cosine); of exponential: decay_rate
    # (0.97), every_epochs (1), staircase.
    optimizer.schedule_options = Options()
    optimizer.milestones = (0.625, 0.75, 0.875)  # fractions of the epochs: 150, 180, 210 of 240
    optimizer.decay = 0.1  # of the learning rate at each milestone
    optimizer.warmup_epochs = 0.0  # epochs in which the rate grows linearly, before any schedule
    optimizer.warmup_start = 0.0  # rate of the first step of the warm-up
    optimizer.final_learning_rate = 0.0  # where cosine, linear, wsd and exponential end

    config.train = train = ConfigDict()
    train.epochs = 240
    train.batch_size = 64  # over all devices; the last partial batch of an epoch is dropped
    # Parts that a batch is walked in, one after the other, to save memory: each is normalised by
    # its own statistics, and compared with the memory that the parts before it were pushed to.
    train.accumulate = 1
    # What of the trained network is computed twice, for memory: none; what is between convolutions,
    # whose results are kept (convolutions); all that is inside residual blocks.
    train.remat = "none"
    # Decay of an average of the student's weights, such as 0.9999, which is then what is tested and
    # exported; 0 for none.
    train.ema = 0.0
    train.eval_batch_size = 500
    # The most steps that one call to the devices makes, where the set is resident. Between calls
    # losses are looked at, checkpoints written and SIGTERM obeyed. 0: on accelerators a second's or
    # so, on a CPU one.
    train.steps_per_dispatch = 0
    train.log_every = 50  # steps between two looks at the losses
    train.save_every = 0  # steps between checkpoints inside an epoch; 0: at its end only
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
