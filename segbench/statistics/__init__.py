"""From numbers to intervals, tests, power and rankings: numbers in, numbers out."""
