"""The broker connection; `link` is the only module that knows paho."""
