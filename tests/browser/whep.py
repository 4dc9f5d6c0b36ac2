"""A WHEP player of another make: whep.py URL TOKEN. Prints one line of JSON.

Follows one redirect without its credential, as browsers do, shows two seconds of pictures, and
ends its session. Certificates are not checked: tests trust the network that they made.
"""

import asyncio
import http.client
import json
import ssl
import sys
import time
from urllib.parse import urlsplit

from aiortc import RTCPeerConnection, RTCSessionDescription

SDP = {"content-type": "application/sdp"}


def request(method, url, body=None, headers=None):
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(parts.netloc, timeout=8, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=8)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


async def main(url, token):
    player = RTCPeerConnection()
    player.addTransceiver("video", direction="recvonly")
    tracks = asyncio.Queue()
    player.on("track", tracks.put_nowait)
    await player.setLocalDescription(await player.createOffer())
    offer = player.localDescription.sdp
    began = time.monotonic()
    status, headers, body = request(
        "POST", url, offer, SDP | {"authorization": f"Bearer {token}"}
    )
    redirected = status == 307
    if redirected:
        status, headers, body = request("POST", headers["location"], offer, SDP)
    report = {"status": status, "redirected": redirected, "frames": 0}
    if status == 201:
        session = headers["location"]
        await player.setRemoteDescription(RTCSessionDescription(body, "answer"))
        track = await asyncio.wait_for(tracks.get(), 5)
        frame = await asyncio.wait_for(track.recv(), 8)
        report["first_ms"] = round((time.monotonic() - began) * 1000)
        report["size"] = [frame.width, frame.height]
        end = time.monotonic() + 2
        while time.monotonic() < end:
            await asyncio.wait_for(track.recv(), 2)
            report["frames"] += 1
        report["ended"] = request("DELETE", session)[0]
        report["again"] = request("DELETE", session)[0]
    else:
        report["body"] = body
    await player.close()
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
