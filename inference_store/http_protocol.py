"""uvicorn's HTTP connection with the parser h11, which loses no answer to a bad request that follows."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class HttpProtocol(H11Protocol):
    """One connection of a client.

    uvicorn answers 400 as soon as it cannot read on, even where the answer to the request before is due or
    has begun. The client would take the 400 for that answer, or lose it.
    """

    _is_refused = False

    def data_received(self, data: bytes) -> None:
        """Read on; after a refusal, read and forget: unread bytes would make the kernel drop the answer."""
        if not self._is_refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, after the answer that is due, and close the connection."""
        self._is_refused = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # The request before is whole. The connection ends with the answer to it.
            cycle.keep_alive = False
            return
        if cycle is not None and not cycle.response_complete:
            # The rest of its body is what cannot be read.
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
