#!/usr/bin/python3
"""An RTSP camera for tests: rtsp://ADDRESS:PORT/cam shows a test pattern.

Prints READY PORT once it serves; PORT 0 takes a free one. Ends when its standard input does, so
that it never outlives the test that started it.
"""

import argparse
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def pipeline(options):
    """The launch line of the camera's media: elements named pay0 and pay1 are its streams."""
    caps = f"video/x-raw,format=I420,width=320,height=240,framerate={options.fps}/1"
    video = f"videotestsrc is-live=true pattern=ball ! {caps} ! "
    if options.codec == "h265":
        video += "x265enc tune=zerolatency speed-preset=ultrafast bitrate=300 ! h265parse ! "
        video += "rtph265pay name=pay0 pt=96 "
    else:
        frames = 2 if options.bframes else 0
        video += f"x264enc bframes={frames} b-adapt=false key-int-max={options.gop} bitrate=300 "
        video += "speed-preset=ultrafast "
        video += "" if options.bframes else "tune=zerolatency "
        # Parameter sets stand in the session description alone, as with many cameras.
        video += "! video/x-h264,profile=main ! h264parse config-interval=0 ! "
        video += "rtph264pay name=pay0 pt=96 config-interval=0 "
    if options.audio == "aac":
        audio = "audiotestsrc is-live=true wave=ticks ! audioconvert ! voaacenc ! aacparse ! "
        audio += "rtpmp4gpay name=pay1 pt=97 "
    elif options.audio == "pcma":
        audio = "audiotestsrc is-live=true wave=ticks ! audioconvert ! audioresample ! "
        audio += "audio/x-raw,rate=8000,channels=1 ! alawenc ! rtppcmapay name=pay1 pt=8 "
    else:
        audio = ""
    return f"( {video}{audio})"


def protect(server, factory, user, password):
    """Lets in whoever knows the password, by Basic and Digest."""
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.from_string(
            "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
        )[0]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--codec", choices=["h264", "h265"], default="h264")
    parser.add_argument("--bframes", action="store_true")
    parser.add_argument("--audio", choices=["aac", "pcma"])
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--gop", type=int, default=25)
    options = parser.parse_args()

    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address(options.address)
    server.set_service(str(options.port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline(options))
    factory.set_shared(True)
    if options.user:
        protect(server, factory, options.user, options.password)
    server.get_mount_points().add_factory("/cam", factory)
    if server.attach(None) == 0:
        sys.exit(f"cannot listen at {options.address}:{options.port}")

    def watch():
        sys.stdin.read()
        GLib.idle_add(loop.quit)

    threading.Thread(target=watch, daemon=True).start()
    print("READY", server.get_bound_port(), flush=True)
    loop.run()


if __name__ == "__main__":
    main()
