"""What distillation is worth where labels are wrong: symmetric and asymmetric noise.

    python -m experiments.study --study=experiments/studies/label_noise.py --jobs=2

On digits, on a CPU. The teacher has seen the right labels; behind the colon, noisy_teacher for one
that has seen its students' images alone, with their wrong labels. Also there: methods, for these
alone; fashion_mnist or cifar100 for that in place of digits; smoke for the same on a few random
images.
"""

from experiments.studies import settings
from experiments.study import design

_SHARES = (0.0, 0.2, 0.4)


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    place = settings.place(options, "noisy_teacher")
    noisy_teacher = "noisy_teacher" in options.named
    share = design.field("data.label_noise", *_SHARES, name="noise", label="share of wrong labels")
    # A teacher that sees its students' wrong labels sees their images, and no others.
    teacher = {"teacher.train_split": None} if noisy_teacher else {"teacher.label_noise": 0.0}
    grids = tuple(
        settings.over(
            options,
            place,
            share,
            name=kind,
            question=f"What is distillation worth under {kind} label noise?",
            fields={**place.fields, **teacher, "data.noise": kind},
        )
        for kind in ("symmetric", "asymmetric")
    )
    name = "label_noise_noisy_teacher" if noisy_teacher else "label_noise"
    return design.Study(
        options.name(f"{name}_{place.name}"), "Wrong labels", grids, about=place.about
    )
