"""Distillation with wrong labels: symmetric and asymmetric noise.

    python -m experiments.study --study=experiments/studies/label_noise.py --jobs=2

The default data set is digits, for a CPU. The teacher is trained with correct labels. Words after
the colon: noisy_teacher, for a teacher trained only on the student's images, with the same wrong
labels; methods, to run only these; fashion_mnist or cifar100, for this data set; smoke, for a few
random images.
"""

from experiments.studies import settings
from experiments.study import design

_SHARES = (0.0, 0.2, 0.4)


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    setup = settings.make_setup(options, "noisy_teacher")
    noisy_teacher = "noisy_teacher" in options.named
    share = design.field("data.label_noise", *_SHARES, name="noise", label="share of wrong labels")
    # A teacher with the student's wrong labels is trained only on the student's images.
    teacher = {"teacher.train_split": None} if noisy_teacher else {"teacher.label_noise": 0.0}
    grids = tuple(
        settings.data_grid(
            options,
            setup,
            share,
            name=kind,
            question=f"How much does distillation improve a student under {kind} label noise?",
            fields={**setup.fields, **teacher, "data.noise": kind},
        )
        for kind in ("symmetric", "asymmetric")
    )
    name = "label_noise_noisy_teacher" if noisy_teacher else "label_noise"
    return design.Study(
        options.name(f"{name}_{setup.name}"), "Wrong labels", grids, about=setup.about
    )
