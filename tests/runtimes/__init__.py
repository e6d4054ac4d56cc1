"""Tests of agent.runtimes."""
