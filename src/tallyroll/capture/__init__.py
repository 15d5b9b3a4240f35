"""Recorded agent runs into events. Pure: reads the given file and makes events; publishing them is the caller's part."""

from tallyroll.capture.formats import FORMATS, Format, Reader, detect
from tallyroll.capture.recording import CaptureOptions, Skipped

__all__ = ["FORMATS", "CaptureOptions", "Format", "Reader", "Skipped", "detect"]
