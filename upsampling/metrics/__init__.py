"""Segmentation metrics that compile: exact, batched, on the accelerator."""

from upsampling.metrics.boundaries import boundary_f1, boundary_f1_sums, boundary_iou, boundary_iou_sums
from upsampling.metrics.distance import distance_transform, nearest_background, signed_distance_transform
from upsampling.metrics.regions import (
    confusion_matrix,
    dice,
    dice_of,
    frequency_weighted_iou,
    frequency_weighted_iou_of,
    iou_of,
    mean_iou,
    pixel_accuracy,
    pixel_accuracy_of,
)
from upsampling.metrics.sums import PrecisionRecall, Ratio, image_mean

__all__ = [
    "PrecisionRecall",
    "Ratio",
    "boundary_f1",
    "boundary_f1_sums",
    "boundary_iou",
    "boundary_iou_sums",
    "confusion_matrix",
    "dice",
    "dice_of",
    "distance_transform",
    "frequency_weighted_iou",
    "frequency_weighted_iou_of",
    "image_mean",
    "iou_of",
    "mean_iou",
    "nearest_background",
    "pixel_accuracy",
    "pixel_accuracy_of",
    "signed_distance_transform",
]
