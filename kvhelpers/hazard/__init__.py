"""Seeing failure coming: tokens at risk, what was known then, predictors of an onset within the next tokens,
how they are judged on prompts that they have not seen, and the same risk while a run goes on.

Reads finished conditions. Failure is here a loop or an overrun, not a wrong answer. Knows nothing of models
or of how a run is made, of figures or sentences, and acts on no alarm.
"""

from kvhelpers.hazard.baselines import baselines
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Event, event_of
from kvhelpers.hazard.features import FAMILIES, FeatureStream, check_causal, family_names, run_features
from kvhelpers.hazard.model import HazardModel, fit, read_model
from kvhelpers.hazard.online import OnlineScorer
from kvhelpers.hazard.predictors import BoostedTrees, LogisticHazard
from kvhelpers.hazard.risk_set import RiskSet, build, read_risk_set
from kvhelpers.hazard.run_alarms import alarm_tokens, judge_alarms
from kvhelpers.hazard.splits import prompt_splits

__all__ = [
    "FAMILIES",
    "BoostedTrees",
    "Evaluation",
    "Event",
    "FeatureStream",
    "HazardModel",
    "LogisticHazard",
    "OnlineScorer",
    "RiskSet",
    "alarm_tokens",
    "baselines",
    "build",
    "check_causal",
    "event_of",
    "family_names",
    "fit",
    "judge_alarms",
    "prompt_splits",
    "read_model",
    "read_risk_set",
    "run_features",
]
