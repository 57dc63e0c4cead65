"""A small gRPC server that plays a target: answers, stalls or refuses as it is told, and counts."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]


class Played(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # generated, untyped
    """Answers each output name with the bytes of the first input; `stall` seconds late."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.ids: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.stall = 0.0
        self.refuses: tuple[grpc.StatusCode, str] | None = None
        self.outputs = ["A", "B"]
        self.ready = True
        self.url = ""
        self.lock = threading.Lock()

    def ModelInfer(  # noqa: N802 - the service's name
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        with self.lock:
            self.asked["ModelInfer"] += 1
            self.ids.append(request.id)
            self.metadata.append({key: str(value) for key, value in context.invocation_metadata()})
        time.sleep(self.stall)
        if self.refuses is not None:
            context.abort(*self.refuses)
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        names = [output.name for output in request.outputs] or self.outputs
        for name in names:
            answer.outputs.add(name=name, datatype="FP32", shape=[len(request.raw_input_contents[0]) // 4])
            answer.raw_output_contents.append(request.raw_input_contents[0])
        return answer

    def ModelReady(  # noqa: N802 - the service's name
        self, _request: service_pb2.ModelReadyRequest, _context: grpc.ServicerContext
    ) -> service_pb2.ModelReadyResponse:
        self.asked["ModelReady"] += 1
        return service_pb2.ModelReadyResponse(ready=self.ready)

    def ServerLive(  # noqa: N802 - the service's name
        self, _request: service_pb2.ServerLiveRequest, _context: grpc.ServicerContext
    ) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)


@contextmanager
def played(target: Played | None = None, port: int = 0) -> Iterator[Played]:
    """A running one, on any port or this one."""
    target = target or Played()
    server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(target, server)
    target.url = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield target
    finally:
        server.stop(None).wait()
