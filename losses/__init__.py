"""Losses that drop into anyone's code, each with the probabilities it believes in."""

from losses.base import ClassificationLoss
from losses.bce import MultiLabelBCELoss, OneVsRestBCELoss
from losses.class_weights import class_weights
from losses.cross_entropy import CrossEntropyLoss
from losses.distillation import DistillationLoss
from losses.focal import FocalLoss
from losses.generalised import GeneralisedCrossEntropyLoss
from losses.hinge import HingeLoss
from losses.info_nce import info_nce
from losses.logit_adjusted import LogitAdjustedLoss
from losses.mse import LogitsMSELoss, RescaledMSELoss, SoftmaxMSELoss
from losses.nll import LogSoftmaxNLLLoss, NLLLoss

__all__ = [
    "ClassificationLoss", "CrossEntropyLoss", "DistillationLoss", "FocalLoss",
    "GeneralisedCrossEntropyLoss", "HingeLoss", "LogSoftmaxNLLLoss", "LogitAdjustedLoss",
    "LogitsMSELoss", "MultiLabelBCELoss", "NLLLoss", "OneVsRestBCELoss", "RescaledMSELoss",
    "SoftmaxMSELoss", "class_weights", "info_nce",
]  # fmt: skip
