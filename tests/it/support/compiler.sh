#!/bin/sh
# In the place of a compiler: says the version that it is told to say.
echo "$VERSION"
