"""A request's way: routing, lanes kept alive, screens before native code, meters behind it."""
