"""The parts of the application that routes call."""

from dataclasses import dataclass

from gateway.api.prometheus import PrometheusMetrics
from gateway.api.request_body import Bodies
from gateway.inference.image import ImageEmbedder
from gateway.inference.pairs import PairScorer
from gateway.inference.text import TextEmbedder
from gateway.models.catalog import Catalog
from gateway.models.lifecycle import Lifecycle
from gateway.models.load_jobs import LoadJobs
from gateway.models.status import Status


@dataclass(frozen=True)
class Services:
    """The parts that routes call."""

    bodies: Bodies
    catalog: Catalog
    embedder: TextEmbedder
    image_embedder: ImageEmbedder
    scorer: PairScorer
    lifecycle: Lifecycle
    jobs: LoadJobs
    status: Status
    prometheus: PrometheusMetrics
