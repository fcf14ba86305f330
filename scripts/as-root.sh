#!/bin/bash
# Runs a test program as root: what the tests make (namespaces, mounts, devices) needs it.
[[ $(id -u) == 0 ]] || exec sudo --preserve-env "$@"
exec "$@"
