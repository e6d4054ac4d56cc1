"""The fleet's side: a stateless controller between any MQTT 5 broker and a database."""
