"""What the words and the numbers of a report mean. Each has one meaning on the whole page."""

from __future__ import annotations

from dyndet_bench.report.facts import Facts
from dyndet_bench.report.text import counted, plain

WORDS = {
    "difficulty": "How much an image needs detector 2, from 0 to 1. A router inside the detector estimates it.",
    "threshold": "The difficulty above which an image is hard. 1 makes every image easy, and 0 makes every image hard.",
    "easy": "An image whose difficulty is not above the threshold. Detector 1 answers it alone.",
    "hard": "An image whose difficulty is above the threshold. It goes on to detector 2, which answers it.",
    "hard share": "The share of the images that are hard.",
    "lat1": "The mean latency if every image is easy.",
    "lat2": "The mean latency if every image is hard.",
    "gain": "The AP if every image is hard, minus the AP if every image is easy: what detector 2 is worth.",
    "operating point": "A threshold that a calibration chose, with the latency that it measured there.",
    "promise": "The latency that an operating point was calibrated for, such as a mean of 12 ms, or p95:60ms.",
}
"""the glossary; ten words that a newcomer needs"""

LEADS = {
    "points": "Each is a threshold that a calibration chose for a promise. The promise 50% is a mean latency half way "
    "from lat1 to lat2, and p95:50% says the same of p95. The values are from images that did not help to choose the "
    "threshold; percentiles are of all their requests together. Error: by how much what was reached misses the "
    "promise. Within promise: the share of single requests that were as fast as promised; for a mean, about half.",
    "frontier": "Each dot is a threshold. Lines begin at all easy (square) and end at all hard (diamond). Horizontal "
    "bars are 95 % intervals.",
    "routes": "Latency: every image went down each route, one request at a time; all requests together. Difficulty: of "
    "the same images.",
    "time": "Queue: waiting in the server. Compute: in the networks. Routing: all else in the server. Network: on the "
    "way, and in the client. The parts add up to the mean latency, counted from when a request was sent. At a request "
    "rate they are from runs of their own, so the sum differs from the latency in the tables.",
    "cells": "One row for each threshold at each load. AP is that of the threshold on the whole data set; all else was "
    "measured at the load.",
    "gallery": "Chosen by difficulty alone. Borderline images are nearest to the first operating point, or else to "
    "the median. Boxes have a score of at least 0.3.",
    "truth": " Green: the box shows an object. Orange: it shows none. Dashed yellow: an object was missed. Blue: "
    "objects by the labels. A box shows an object if the class is the same and the overlap (IoU) is at least 0.5.",
    "paper": "A calibration assumes that the mean latency grows from lat1 to lat2 in proportion to the hard share. "
    "This checks the rule with the table of the DynamicDet paper, not with the detector of this page: lat1 and lat2 "
    "from two rows of a network predict the speed of its other rows.",
}
"""what a section shows, and which images and requests it is about"""


def introduction(facts: Facts) -> str:
    """What kind of detector this is, and what the page shows."""
    return (
        f"{plain(facts.sweep.model)} has two detectors. Detector 1 is fast, and a router estimates how difficult each "
        "image is. Only images above a threshold go on to detector 2, which is slower and finds more. This page shows "
        "what each threshold costs in time, and what it gives in accuracy."
    )


def measures(facts: Facts) -> dict[str, str]:
    """What every number on the page is: which images, which requests, mean or median."""
    sweep = facts.sweep
    found = {
        "load": "How requests arrive. Concurrency 4: four requests are always in progress, and an answer lets the next "
        "one leave. 30 requests/s: requests arrive at random times, 30 a second on average, and wait for nothing.",
        "cell": f"One threshold at one load. Each cell was measured in {counted(sweep.repetitions, 'run')}.",
        "latency": "The time from when a request is due until the client has its answer. At a concurrency, a request "
        "is due when it leaves. At a request rate, it is due when it arrives.",
        "mean, p50 to p99": "Of the latencies of one run: their mean, and the latency that 50 % to 99 % of the "
        "requests do not exceed. A cell has the median of its runs.",
        "95 % interval": "Where the mean or the throughput would lie in 95 of 100 such measurements, by the "
        "differences between the runs.",
        "throughput": "Images answered per second, the median of the runs. At a request rate it can differ from the "
        "rate: a run has few random arrivals and lasts until its last answer, and a server that has too much to do "
        "answers fewer.",
        "hard share of a cell": "Counted by the server over all runs, which send the "
        f"{counted(sweep.image_count, 'image')} in turn. It differs a little from load to "
        "load, because runs have different lengths.",
    }
    if sweep.accuracy:
        found["AP"] = (
            f"COCO average precision, in percent, over all images of {plain(sweep.accuracy_data or 'the data set')}. "
            "It depends on the threshold, not on the load."
        )
    return found
