"""How the constants of `kvhelpers.hazard` were chosen: out-of-fold AUROC and log-loss on experiment
005-development, of the logistic hazard by its penalty and of the trees that it is compared with.

``python -m kvhelpers run experiments/005-development.yaml && python benchmarks/hazard_choice.py``
"""

import itertools

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from kvhelpers.hazard import model, predictors, read_risk_set
from kvhelpers.hazard.features import MAIN, family_names
from kvhelpers.hazard.predictors import BoostedTrees, LogisticHazard
from kvhelpers.hazard.splits import prompt_splits, scores_of

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1)
CANDIDATES = {
    "max_iter": (40, 100),
    "learning_rate": (0.04, 0.08),
    "max_leaf_nodes": (5, 15),
    "min_samples_leaf": (300,),
    "l2_regularization": (10.0,),
    "max_features": (0.2, 1.0),
}
HORIZON = 10


def judge(risk, predictor):
    """AUROC, average precision and log-loss of a predictor with the constants as they are now."""
    scores, label = scores_of(risk, predictor, prompt_splits(risk.runs)), risk.label(HORIZON)
    known = ~np.isnan(label)
    score, truth = scores[known], label[known]
    return {
        "AUROC": roc_auc_score(truth, score),
        "AUPRC": average_precision_score(truth, score),
        "log-loss": log_loss(truth, score),
    }


def main():
    """Print a row per candidate, best log-loss first."""
    risk, _ = read_risk_set(["005-development"])
    names, rows = family_names(*MAIN), []
    for model.PENALTY in PENALTIES:
        judgement = judge(risk, LogisticHazard(HORIZON, names))
        rows.append({"predictor": "logistic hazard", "candidate": model.PENALTY} | judgement)
    for values in itertools.product(*CANDIDATES.values()):
        predictors.TREE_SETTINGS |= dict(zip(CANDIDATES, values, strict=True))
        judgement = judge(risk, BoostedTrees(HORIZON, names))
        rows.append({"predictor": "boosted trees", "candidate": values} | judgement)
    print(f"{len(risk.runs)} runs, {len(risk.run)} tokens at risk; trees: {', '.join(CANDIDATES)}")
    print(pd.DataFrame(rows).sort_values(["predictor", "log-loss"]).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
