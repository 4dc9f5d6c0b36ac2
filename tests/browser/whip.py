"""A WHIP publisher of another make: whip.py TOKEN. Reads one command a line, says one JSON a line.

A URL: publish there from now on, as a new session of the same encoder. "end": end the session and
say so. The end of the input ends the program without a word to anybody, as a crash does.
"""

import asyncio
import json
import sys

from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack

from whep import SDP, request


class Picture(VideoStreamTrack):
    """A picture that changes, so that its frames have a size."""

    async def recv(self):
        frame = await super().recv()
        shade = frame.pts // 3000 % 256
        for plane in frame.planes:
            plane.update(bytes([shade]) * plane.buffer_size)
        return frame


def say(**what):
    print(json.dumps(what), flush=True)


async def publish(url, token, codec):
    publisher = RTCPeerConnection()
    publisher.addTrack(Picture())
    codecs = RTCRtpSender.getCapabilities("video").codecs
    wanted = [of for of in codecs if of.mimeType in (f"video/{codec}", "video/rtx")]
    publisher.getTransceivers()[0].setCodecPreferences(wanted)
    publisher.on(
        "connectionstatechange",
        lambda: say(url=url, state=publisher.connectionState),
    )
    await publisher.setLocalDescription(await publisher.createOffer())
    offer = publisher.localDescription.sdp
    headers = SDP | ({"authorization": f"Bearer {token}"} if token else {})
    loop = asyncio.get_running_loop()
    status, headers, body = await loop.run_in_executor(None, request, "POST", url, offer, headers)
    if status == 307:
        url = headers["location"]
        status, headers, body = await loop.run_in_executor(None, request, "POST", url, offer, SDP)
    say(url=url, status=status, body=body, location=headers.get("location"))
    if status == 201:
        await publisher.setRemoteDescription(RTCSessionDescription(body, "answer"))
    return publisher, headers.get("location")


async def main(token=""):
    loop = asyncio.get_running_loop()
    sessions = []
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if line == "end":
            publisher, location = sessions.pop()
            status, _, _ = await loop.run_in_executor(None, request, "DELETE", location)
            say(ended=status)
            await publisher.close()
        else:
            url, _, codec = line.partition(" ")
            sessions.append(await publish(url, token, codec or "H264"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
