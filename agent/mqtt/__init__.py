"""The broker connection; `link` and `node_link` are the only modules that know paho."""
