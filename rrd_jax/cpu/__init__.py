"""Support for CPU programs alone: convolution forms, compiler options and memory accounting."""
