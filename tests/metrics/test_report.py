import json
import subprocess
import sys

import numpy as np
import pytest

from gendyn import metrics


def digits_report(digits, samples, labels, **choices):
    return metrics.report(samples, labels, digits.train, digits.test, classifier=digits.judge, **choices)


def test_floor_has_the_size_of_the_samples(digits):
    few = digits_report(digits, digits.train[:100], digits.train_labels[:100])
    many = digits_report(digits, digits.train[:900], digits.train_labels[:900])
    for result, count in ((few, 100), (many, 360)):
        assert {(row.measure.n, row.floor.n) for row in result.rows} == {(count, count)}
        assert {(row.measure.reference_n, row.floor.reference_n) for row in result.rows} == {(1437, 1437)}
    assert (many.drawn, many.memorization.n, many.agreement.n) == (900, 900, 900)


def test_real_test_images_sit_on_the_floor(digits):
    result = digits_report(digits, digits.test, digits.test_labels)
    assert result["frechet"].ratio == 1.0
    assert result["sliced_wasserstein"].ratio == 1.0
    assert result["mmd2"].measure.value == result["mmd2"].floor.value
    assert result.memorization.ratio == 1.0
    assert result.agreement.value == result.accuracy.value


def test_copies_look_perfect_except_for_the_nearest_distance(digits):
    result = digits_report(digits, digits.train[:360], digits.train_labels[:360])
    assert result["frechet"].ratio < 1.1
    assert result.memorization.ratio == 0.0
    assert result.memorization.near_share == 1.0


def test_every_distance_grows_with_noise(digits, rng):
    noise = rng.standard_normal(digits.test.shape)
    results = [digits_report(digits, digits.test + s * noise, digits.test_labels) for s in (0.0, 0.2, 0.4)]
    for name in ("sliced_wasserstein", "mmd2", "frechet"):
        values = [result[name].measure.value for result in results]
        assert values == sorted(values)
        assert values[2] - values[0] > 0.5 * abs(values[0])


def test_a_dropped_class_raises_every_distance(digits):
    kept = digits.test_labels != 3
    result = digits_report(digits, digits.test[kept], digits.test_labels[kept])
    for row in result.rows:
        assert row.measure.value > row.floor.value, row.measure.name


def test_vectors_need_no_classifier(rng):
    train, test, samples = rng.standard_normal((3, 60, 2))
    result = metrics.report(samples, None, train, test)
    assert result.agreement is None
    assert result.accuracy is None
    assert "class agreement" not in str(result)
    assert result["frechet"].measure.features == "coordinates"


def test_extractor_runs_once_on_each_example_and_is_named(digits):
    seen = []
    halves = metrics.Features(name="halves", apply=lambda x: (seen.append(len(x)), x.reshape(len(x), 2, -1).mean(2))[1])
    result = metrics.report(digits.train[:50], None, digits.train, digits.test, features=halves)
    assert sum(seen) == 1437 + 50 + 50
    assert {row.floor.features for row in result.rows} == {"halves"}


def test_same_seed_same_report(digits):
    reports = [digits_report(digits, digits.train[:500], digits.train_labels[:500], seed=s) for s in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]


def test_dictionary_survives_json(digits):
    result = digits_report(digits, digits.train[:40], digits.train_labels[:40])
    plain = json.loads(json.dumps(result.as_dict()))
    assert plain == result.as_dict()
    assert plain["measures"]["frechet"]["ratio"] == result["frechet"].ratio
    assert plain["measures"]["mmd2"]["ratio"] is None


def test_printed_table_is_aligned_and_says_its_conditions(digits):
    text = str(digits_report(digits, digits.train[:40], digits.train_labels[:40]))
    table = text.split("real test:")[0].splitlines()
    column = table[0].index("features")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in table)
    assert all(word in text for word in ("40", "1437", "pixels", "RBF-SVM", "40 samples drawn", "directions 512"))


def test_bad_input_is_explained(digits):
    with pytest.raises(ValueError, match="one shape"):
        digits_report(digits, np.zeros((5, 7, 8, 1)), np.zeros(5, int))
    with pytest.raises(ValueError, match="pass labels"):
        digits_report(digits, digits.test, None)
    with pytest.raises(ValueError, match="not finite"):
        digits_report(digits, digits.test * np.nan, digits.test_labels)
    with pytest.raises(KeyError, match="frechet"):
        digits_report(digits, digits.test[:9], digits.test_labels[:9])["fid"]


def test_import_stays_light():
    code = "import sys, gendyn.metrics; assert not {'sklearn', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
