"""What only CPU programs need: convolution forms, compiler options and memory accounting."""
