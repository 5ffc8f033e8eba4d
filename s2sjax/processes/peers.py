"""The processes of one run watch each other: who has died or stands still is named, and the others end.

Process 0 has a hub, to which every process, itself too, keeps a TCP connection; lines of JSON go both ways:

    hello    who connects, with the hub's token, and the hub's answer: host and pid
    beat     every second, both ways: still here
    stop     somebody was asked to stop; the hub answers to all with `hold`, they with `at`, and it with `until`
    ended    this process ends before the others, with an exit code and a sentence; the hub decides what that means
    verdict  from the hub: everybody ends, with this exit code and this sentence
    bye      this process is done; the hub says it back, and to all when it is process 0 that is, whose end is no death

A connection that closes without a `bye` is a process that died, and is known at once; one that says nothing for the
time-out is a process that is stopped, or a network that is cut. JAX's own heartbeats tell neither who it was nor end in
an exit code (they abort), and its collectives wait for ever for a process that stands still.
"""

import contextlib
import json
import os
import platform
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOST = 76
"""Exit code where a process of the run was lost: EX_PROTOCOL. All start again, and go on from the last checkpoint."""
_BEAT = 1.0  # seconds between two beats
_PATIENCE = 0.5  # seconds in which several that end tell why, before the hub decides
_FAREWELL = 5.0  # seconds that the hub gives the others to end by its verdict before its own process does

Message = Mapping[str, Any]


@dataclass
class _Peer:
    """The other end of a connection."""

    connection: socket.socket
    index: int = 0
    host: str = "?"
    pid: int = 0
    heard: float = field(default_factory=time.monotonic)
    left: bool = False
    """It is done, or told why it ends."""
    unread: bytes = b""

    def __str__(self) -> str:
        return f"process {self.index} ({self.host}, pid {self.pid})"

    def send(self, kind: str, **values: Any) -> None:
        with contextlib.suppress(OSError):  # that it is gone is noticed where it is read from
            self.connection.sendall(json.dumps({"kind": kind, **values}).encode() + b"\n")

    def read(self) -> list[Message] | None:
        """The messages that are there; None at the end, or if it is somebody who speaks another language."""
        try:
            received = self.connection.recv(65536)
            *lines, self.unread = (self.unread + received).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return None
        self.heard = time.monotonic()
        return messages if received else None


class Hub:
    """In process 0, in a thread of its own: hears every process, and tells all of them what follows."""

    def __init__(self, count: int, *, timeout: float) -> None:
        """Args:
        count: processes of the run.
        timeout: seconds of silence after which a process is lost.
        """
        self._count, self._timeout = count, timeout
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._listener = socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=both)
        self.port: int = self._listener.getsockname()[1]
        self.token = secrets.token_hex(8)
        """What a process of this run says when it connects, and nobody else can."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: list[_Peer] = []
        self._joined = 0
        self._ended: dict[int, tuple[int, str]] = {}
        self._first_ended = 0.0
        self._reached: dict[int, int] = {}
        self._holding = self._informed = False
        threading.Thread(target=self._run, name="hub", daemon=True).start()

    def _run(self) -> None:
        beaten = time.monotonic()
        while True:
            for key, _ in self._selector.select(timeout=0.1 if self._ended else _BEAT):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._hear(key.data)
            now = time.monotonic()
            present = [peer for peer in self._peers if not peer.left]
            for peer in present:
                if now - peer.heard > self._timeout:
                    self._end(LOST, silent(peer, self._timeout))
            # When nobody else is missing, what they say is the reason, and no echo of somebody's death.
            heard = all(peer.heard > self._first_ended for peer in present)
            if self._ended and heard and now > self._first_ended + _PATIENCE:
                self._end(*self._ended[min(self._ended)])
            if now >= beaten + _BEAT:
                beaten = now
                for peer in self._peers:
                    peer.send("beat")

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(self._timeout)
        peer = _Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _hear(self, peer: _Peer) -> None:
        messages = peer.read()
        if messages is None:
            self._forget(peer)
            if peer in self._peers:  # and not somebody who looked what listens here
                self._peers.remove(peer)
                if not peer.left:
                    self._end(LOST, died(peer))
                self._settle()
            return
        for message in messages:
            if peer in self._peers:
                self._follow(peer, message)
            elif isinstance(message, dict) and message.get("token") == self.token:
                peer.index, peer.host, peer.pid = message["index"], message["host"], message["pid"]
                self._peers.append(peer)
                self._joined += 1
                peer.send("hello", host=platform.node(), pid=os.getpid())

    def _follow(self, peer: _Peer, message: Message) -> None:
        match message["kind"]:
            case "stop" if not self._holding:
                self._holding = True
                for each in self._peers:
                    each.send("hold")
            case "at":
                self._reached[peer.index] = message["call"]
                self._settle()
            case "ended":
                peer.left = True
                self._first_ended = self._first_ended or time.monotonic()
                reason = message["text"] if peer.index == 0 or not message["text"] else f"{peer}: {message['text']}"
                self._ended[peer.index] = message["code"], reason
            case "bye":
                peer.left = True
                for each in self._peers if peer.index == 0 else [peer]:
                    each.send("bye")

    def _settle(self) -> None:
        """Tell until when to go on, once all have said where they are who are still there."""
        arrived = self._joined == self._count and all(peer.index in self._reached for peer in self._peers)
        if self._holding and arrived and not self._informed:
            self._informed = True
            for each in self._peers:
                each.send("until", call=max(self._reached.values()) + 1)

    def _forget(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()

    def _end(self, code: int, text: str) -> None:
        """Tell all, and process 0 last: with it the hub is gone, and the service that JAX's processes live by."""
        own = [peer for peer in self._peers if peer.index == 0]
        for peer in self._peers:
            if peer.index != 0:
                peer.send("verdict", code=code, text=text)
        deadline = time.monotonic() + _FAREWELL
        others = [peer for peer in self._peers if peer.index != 0 and time.monotonic() - peer.heard < 2 * _BEAT]
        while others and time.monotonic() < deadline:
            for key, _ in self._selector.select(timeout=0.1):
                if isinstance(key.data, _Peer) and key.data.read() is None:
                    self._forget(key.data)
                    others = [peer for peer in others if peer is not key.data]
        for peer in own:
            peer.send("verdict", code=code, text=text)
        threading.Event().wait()  # process 0 ends by it


class Link:
    """A process's connection to the hub; a thread of its own listens and beats."""

    def __init__(self, index: int, address: tuple[str, int], token: str, *, timeout: float) -> None:
        """Args:
        address: the hub's host and port.
        token: the hub's.
        timeout: seconds of silence after which the hub's process is lost.

        Raises:
            OSError: nothing answers there.
        """
        self._index, self._timeout = index, timeout
        self._hub = _Peer(socket.create_connection(address, timeout=timeout))
        self._mutex = threading.Lock()  # two threads send
        self._send("hello", token=token, index=index, host=platform.node(), pid=os.getpid())
        self._step: int | None = None
        """The last that was begun here."""
        # Closed while the processes tell each other where they are.
        self._gate = threading.Lock()
        self._calls = 0
        self._until: int | None = None
        self._asked = False
        self._ending = False
        self._done = threading.Event()
        self._verdict: tuple[int, str] | None = None
        self._decided = threading.Event()
        threading.Thread(target=self._run, name="peers", daemon=True).start()

    def agree(self, step: int, stop: bool) -> bool:
        """Whether all processes stop now. Called by each of them equally often, between steps; costs two locks.

        The first who wants to stops everybody's way in here for a moment, until the hub knows who was here how often;
        all stop at the call after the furthest.

        Args:
            step: the last that was begun, for what is said when another is lost: all do the same steps.
            stop: this process was asked to.
        """
        self._step = step
        if stop and not self._asked:
            self._asked = True
            self._send("stop")
        with self._gate:
            self._calls += 1
            return self.agreed

    @property
    def agreed(self) -> bool:
        """Whether the processes have agreed to stop, and this one has."""
        return self._until is not None and self._calls >= self._until

    def end(self, code: int, text: str) -> tuple[int, str]:
        """Tell that this process ends before its time. Returns what the hub makes of it: the exit code and a sentence,
        which is empty if it is for others to say."""
        self._ending = True
        self._send("ended", code=code, text=text)
        self._decided.wait(self._timeout + 2 * _FAREWELL)
        return self._verdict or (code, text)

    def close(self) -> None:
        """This process is done, and so are the others, or it would not end before them."""
        self._send("bye")
        self._done.wait(_FAREWELL)

    def _send(self, kind: str, **values: Any) -> None:
        with self._mutex:
            self._hub.send(kind, **values)

    def _run(self) -> None:
        beaten = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self._hub.connection, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=_BEAT):
                    messages = self._hub.read()
                    if messages is None:
                        break
                    for message in messages:
                        self._obey(message)
                now = time.monotonic()
                if now - self._hub.heard > self._timeout:
                    self._judge(LOST, silent(self._hub, self._timeout))
                if now >= beaten + _BEAT:
                    beaten = now
                    self._send("beat")
        if not self._done.is_set():
            self._judge(LOST, died(self._hub))

    def _obey(self, message: Message) -> None:
        match message["kind"]:
            case "hello":
                self._hub.host, self._hub.pid = message["host"], message["pid"]
            case "hold":
                self._gate.acquire()
                self._send("at", call=self._calls)
            case "until":
                self._until = message["call"]
                self._gate.release()
            case "bye":
                self._done.set()
            case "verdict":
                self._judge(message["code"], message["text"])

    def _judge(self, code: int, text: str) -> None:
        """End this process, unless it is ending and waits to hear what to say."""
        if code == LOST:
            begun = "no step was begun here" if self._step is None else f"step {self._step} was the last begun here"
            self._verdict = code, f"{text}; {begun}"
        else:
            self._verdict = code, text if self._index == 0 else ""
        self._decided.set()
        if not self._ending:
            leave(*self._verdict)


def died(peer: _Peer) -> str:
    return f"{peer} has died"


def silent(peer: _Peer, timeout: float) -> str:
    return f"{peer} has not answered for {timeout:g} s"


def leave(code: int, text: str) -> None:
    """End the process at once, whatever its other threads wait for."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if text:
        print(f"s2sjax: {text}", file=sys.stderr, flush=True)
    os._exit(code)
