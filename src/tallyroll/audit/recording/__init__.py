"""From a program's call to a sealed record on its way: entries are judged, split, sealed and sent."""
