#!/bin/sh
echo "$GREETING WHO: $*"
