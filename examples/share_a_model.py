"""Fit a model on an example set, push it to the Hugging Face Hub, pull it back and see that it is the same.

hf auth login
python -m examples.share_a_model OWNER/NAME
"""

import sys
from pathlib import Path

import admodels
from admodels.evaluation import evaluate, load_dataset

EXAMPLE = Path(__file__).resolve().parent / "pa_brg02_rl"


def main(repo_id: str) -> None:
    """Fit, evaluate, push, find, pull, predict."""
    data = load_dataset(EXAMPLE)
    detector = admodels.create("fapm")
    evaluation = evaluate(detector, data, robustness=False)  # fits it, then measures it on the labelled test pictures
    done = admodels.push(
        detector,
        repo_id,
        category="paper with specks",
        licence="mit",
        data_terms="CC BY 4.0 (PIPED)",
        evaluation=evaluation,
        preview=data.test[-1].path,
    )
    print(f"pushed to {done.url}, {'private' if done.is_private else 'public'}")
    # The Hub lists a new model some time after it is there.
    for model in admodels.search(owner=done.reference.repo_id.split("/")[0]):
        print(f"found {model.reference}: {model.method}, {model.category}, image AUROC {model.image_auroc}")
    pulled = admodels.pull_verified(str(done.reference))
    print(pulled.verification.statement)
    picture = data.test[-1].path
    print(f"score {detector.predict(picture).score:.6g} here, {pulled.detector.predict(picture).score:.6g} as pulled")


if __name__ == "__main__":
    main(sys.argv[1])
