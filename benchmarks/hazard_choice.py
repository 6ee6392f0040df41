"""How the constants of `kvhelpers.hazard` were chosen: out-of-fold AUROC and log-loss on experiment 005-development.

``python -m kvhelpers run experiments/005-development.yaml && python benchmarks/hazard_choice.py``
"""

import itertools

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from kvhelpers import hazard
from kvhelpers.folds import learner, out_of_fold
from kvhelpers.predictors import MAIN, family_names
from kvhelpers.riskset import read_risk_set

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1)
TREES = {
    "max_iter": (40, 100),
    "learning_rate": (0.04, 0.08),
    "max_leaf_nodes": (5, 15),
    "min_samples_leaf": (300,),
    "l2_regularization": (10.0,),
    "max_features": (0.2, 1.0),
}
HORIZON = 10


def judge(risk, kind):
    """AUROC, average precision and log-loss of one kind of predictor with the constants as they are now."""
    scores, label = out_of_fold(risk, learner(HORIZON, family_names(*MAIN), kind)), risk.label(HORIZON)
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
    rows = []
    for hazard.PENALTY in PENALTIES:
        rows.append({"kind": hazard.LOGISTIC, "candidate": hazard.PENALTY} | judge(risk, hazard.LOGISTIC))
    for values in itertools.product(*TREES.values()):
        hazard.TREES = dict(zip(TREES, values, strict=True))
        rows.append({"kind": hazard.BOOSTING, "candidate": values} | judge(risk, hazard.BOOSTING))
    print(f"{len(risk.runs)} runs, {len(risk.run)} tokens at risk; trees: {', '.join(TREES)}")
    print(pd.DataFrame(rows).sort_values(["kind", "log-loss"]).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
