"""Metrics: how far are the samples from the data, and would real data do any better?

A distance between two finite sets is never zero, not even between two sets of real images. So nothing here is
printed alone. The picture from which the rest follows is a table with three columns,

    distance(samples, train)   |   distance(real test split, train)   |   their ratio

where both sets on the left have the *same number of examples* (the second column is the *floor* at that n), and,
below it, the question that a distance cannot ask: are the samples nearer to the training images than unseen real
images are? A model that copies its training set has a perfect Frechet distance and a ratio of nearest distances of 0.

Every number is a `Measure` that remembers how many examples and which features made it. Features come in as a named
function (`Features`), so no network lives in this room. Sets that do not fit in memory, or that are spread over
hosts, go through `moments`: `update`, `merge`, `compute`, three pure functions on a small state that adds.
"""

from gendyn.metrics import moments
from gendyn.metrics.agreement import Classifier, agreement, classifier, digits_classifier
from gendyn.metrics.kernel import median_bandwidths, mmd
from gendyn.metrics.measure import COORDINATES, PIXELS, Features, Measure
from gendyn.metrics.memorization import Memorization, compare_nearest, nearest, nearest_distance
from gendyn.metrics.moments import Moments, frechet
from gendyn.metrics.report import Report, Row, report
from gendyn.metrics.sliced import sliced_wasserstein, wasserstein

__all__ = [
    "COORDINATES",
    "PIXELS",
    "Classifier",
    "Features",
    "Measure",
    "Memorization",
    "Moments",
    "Report",
    "Row",
    "agreement",
    "classifier",
    "compare_nearest",
    "digits_classifier",
    "frechet",
    "median_bandwidths",
    "mmd",
    "moments",
    "nearest",
    "nearest_distance",
    "report",
    "sliced_wasserstein",
    "wasserstein",
]
