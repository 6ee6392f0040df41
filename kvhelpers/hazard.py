"""The hazard of failure: how likely it is that a failure begins within the next tokens, for a run still at risk.

A discrete-time hazard model (Cox 1972, section 6; Singer and Willett 1993, https://doi.org/10.3102/10769986018002155): each
token at risk is an observation, and ending by itself is a competing event, after which no failure comes. Horizon 1 is the
hazard itself; a longer one gives the probability of an onset within so many tokens. Predictors: logistic regression, whose
coefficients can be read, gradient-boosted trees, and the average of both log-odds. A model is plain numbers: it is stored as
JSON, and scored by the same function for a table and for one token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.paths import relative, write_atomic
from kvhelpers.riskset import RiskSet

LOGISTIC, BOOSTING, AVERAGE = "logistic", "boosting", "average"
KINDS = (LOGISTIC, BOOSTING, AVERAGE)
# chosen by benchmarks/hazard_choice.py on other problems (005-development): nothing was tuned on what is reported
PENALTY = 0.01  # inverse strength of the L2 penalty on standardized features
CLIP = 5.0  # standard deviations
TREES = {
    "max_iter": 40,
    "learning_rate": 0.04,
    "max_leaf_nodes": 5,
    "min_samples_leaf": 300,
    "l2_regularization": 10.0,
    "max_features": 0.2,
}
FEW = 20  # features, of which every split may choose among all
ROWS = 4096  # scored at once
NODES = {  # what is kept of scikit-learn's trees
    "feature": "feature_idx",
    "threshold": "num_threshold",
    "left": "left",
    "right": "right",
    "missing_left": "missing_go_to_left",
    "leaf": "is_leaf",
    "value": "value",
}
LINEAR = ("mean", "scale", "coefficient", "intercept")
FOREST = (*NODES, "root", "start")


@dataclass(frozen=True)
class HazardModel:
    """A trained predictor.

    ``names`` are its features in order, ``data_hash`` the hash of its training data (`riskset.RiskSet.hash`), ``numbers`` its
    parameters: of logistic regression ``mean, scale, coefficient`` by feature and ``intercept``; of boosting the trees' nodes,
    one tree after the other, each tree's ``root``, and ``start``, the log-odds before the first tree.
    """

    kind: str
    horizon: int
    names: tuple[str, ...]
    data_hash: str
    numbers: dict[str, np.ndarray]

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probability of an onset within the horizon, ``[N]``, from features ``[N, F]`` in the order of ``names``.

        Raises
        ------
        InputError : another number of features.
        """
        features = np.atleast_2d(features)
        if features.shape[1] != len(self.names):
            raise InputError(
                f"features have {features.shape[1]} columns; the model was trained on {len(self.names)}, "
                f"{self.names[0]} to {self.names[-1]}"
            )
        parts = [self._log_odds(features[start : start + ROWS]) for start in range(0, len(features), ROWS)]
        return 1 / (1 + np.exp(-np.concatenate(parts))) if parts else np.zeros(0)

    def _log_odds(self, features: np.ndarray) -> np.ndarray:
        parts = {LOGISTIC: [self._linear], BOOSTING: [self._trees], AVERAGE: [self._linear, self._trees]}[self.kind]
        return np.mean([part(features) for part in parts], axis=0)

    def _linear(self, features: np.ndarray) -> np.ndarray:
        return standardized(features, self.numbers) @ self.numbers["coefficient"] + self.numbers["intercept"]

    def _trees(self, features: np.ndarray) -> np.ndarray:
        n = self.numbers
        node = np.tile(n["root"], (len(features), 1))  # where each row is in each tree
        rows = np.arange(len(features))[:, None]
        while not n["leaf"][node].all():
            value = features[rows, n["feature"][node]]
            left = np.where(np.isnan(value), n["missing_left"][node], value <= n["threshold"][node])
            node = np.where(n["leaf"][node], node, np.where(left, n["left"][node], n["right"][node]))
        return n["value"][node].sum(1) + n["start"]

    def save(self, path: Path) -> Path:
        """Write the model as JSON."""
        numbers = {name: values.tolist() for name, values in self.numbers.items()}
        data = {"kind": self.kind, "horizon": self.horizon, "names": self.names, "data_hash": self.data_hash}
        return write_atomic(path, lambda temporary: temporary.write_text(json.dumps(data | {"numbers": numbers}) + "\n"))


def standardized(features: np.ndarray, numbers: dict[str, np.ndarray]) -> np.ndarray:
    """Features in standard deviations from the training mean, clipped; missing ones are the mean."""
    return np.nan_to_num(((features - numbers["mean"]) / numbers["scale"]).clip(-CLIP, CLIP))


def load(path: Path) -> HazardModel:
    """Read a model written by `HazardModel.save`. Raises InputError if the file is none."""
    try:
        data = json.loads(Path(path).read_text())
        numbers = {name: np.array(values) for name, values in data.pop("numbers").items()}
        needed = {LOGISTIC: LINEAR, BOOSTING: FOREST, AVERAGE: (*LINEAR, *FOREST)}[data["kind"]]
        numbers = {name: numbers[name] for name in needed}
        return HazardModel(**data | {"names": tuple(data["names"])}, numbers=numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model file {relative(path)} is no hazard model ({error!r})") from error


def fit(risk: RiskSet, horizon: int, names: Sequence[str], kind: str, train: np.ndarray | None = None) -> HazardModel:
    """Train a predictor on the tokens at risk in the mask ``train`` (all by default) whose label is known.

    Raises
    ------
    InputError : unknown kind or feature, a horizon below 1, or only one kind of label to learn from.
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    if horizon < 1:
        raise InputError(f"horizon {horizon} is below 1; it is a number of tokens")
    label = risk.label(horizon)
    known = ~np.isnan(label) if train is None else train & ~np.isnan(label)
    used, features, label = risk.part(known), risk.columns(names)[known], label[known]
    if len(set(label)) < 2:
        raise InputError(f"of {len(label)} tokens to learn from, {int(label.sum())} precede a failure; both kinds are needed")
    numbers = _fit_linear(features, label) if kind != BOOSTING else {}
    numbers |= _fit_trees(features, label) if kind != LOGISTIC else {}
    return HazardModel(kind, horizon, tuple(names), used.hash(), numbers)


def _fit_linear(features: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    finite = np.ma.masked_invalid(features.astype(float))
    scale = finite.std(0).filled(1.0)
    numbers = {"mean": finite.mean(0).filled(0.0), "scale": np.where(scale > 0, scale, 1.0)}
    model = LogisticRegression(C=PENALTY, solver="newton-cholesky").fit(standardized(features, numbers), label)
    return numbers | {"coefficient": model.coef_[0], "intercept": model.intercept_[0]}


def _fit_trees(features: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    features = np.where(np.isnan(features).all(0), 0, features)  # scikit-learn's bins need a value
    settings = TREES if features.shape[1] > FEW else TREES | {"max_features": 1.0}
    model = HistGradientBoostingClassifier(**settings, early_stopping=False, random_state=0).fit(features, label)
    trees = [tree.nodes for (tree,) in model._predictors]  # not public; a test compares the scores with scikit-learn's
    root = np.cumsum([0, *map(len, trees[:-1])])
    numbers = {name: np.concatenate([nodes[field] for nodes in trees]) for name, field in NODES.items()}
    shift = np.repeat(root, list(map(len, trees)))
    children = {name: numbers[name].astype(np.int64) + shift for name in ("left", "right")}
    flags = {name: numbers[name].astype(bool) for name in ("missing_left", "leaf")}
    start = np.asarray(model._baseline_prediction, dtype=float).ravel()[0]
    return numbers | children | flags | {"feature": numbers["feature"].astype(np.int64), "root": root, "start": start}
