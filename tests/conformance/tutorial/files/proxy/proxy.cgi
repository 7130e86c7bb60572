#!/bin/sh
echo Content-type: text/plain
echo
curl -s http://web/
