"""The text format is the one that prometheus-client writes."""

import math

import pytest
from prometheus_client import exposition
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
    UnknownMetricFamily,
)

from gateway.admin.exposition import CONTENT_TYPE, plain_text

BUCKETS = [("0.5", 1.0), ("+Inf", 3.0)]
FAMILIES = {
    "counter": CounterMetricFamily("a", "Help.", 3, created=1.5),
    "gauge": GaugeMetricFamily("b", 'Back\\slash, "quotes"\nand lines.', math.inf),
    "histogram": HistogramMetricFamily("c", "", BUCKETS, 2.25),
    "gauge histogram": GaugeHistogramMetricFamily("d", "", BUCKETS, 7),
    "info": InfoMetricFamily("e", "", {"version": "1", "other": "ü"}),
    "summary": SummaryMetricFamily("f", "", 2, math.nan),
    "unknown": UnknownMetricFamily("g", "", -1e21),
    "empty": GaugeMetricFamily("h", "", labels=["x"]),
    "labels": CounterMetricFamily("i", "", labels=["z", "a"]),
    "its own names": Metric("j", "", "gauge"),
}
for labels in (['say "a"\\b\nc', ""], ["é\N{SNOWMAN}", "\\n"]):
    FAMILIES["labels"].add_metric(labels, 5, created=2)
FAMILIES["its own names"].add_sample("j_gsum", {}, 1)
FAMILIES["its own names"].add_sample("j_created", {"x": "y"}, 2**53)
FAMILIES["its own names"].add_sample("j", {}, 0.1)


class Registry:
    def __init__(self, families):
        self._families = families

    def collect(self):
        return self._families


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_metric_is_written_as_prometheus_client_writes_it(kind):
    assert plain_text([FAMILIES[kind]]) == exposition.generate_latest(Registry([FAMILIES[kind]]))


def test_all_of_a_scrape():
    assert plain_text(FAMILIES.values()) == exposition.generate_latest(Registry(FAMILIES.values()))
    assert CONTENT_TYPE == exposition.CONTENT_TYPE_PLAIN_0_0_4
