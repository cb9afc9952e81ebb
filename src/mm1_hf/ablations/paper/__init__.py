"""MM1's ablations at small scale: real handwritten digits, two cores, tens of minutes."""
