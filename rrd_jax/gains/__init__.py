"""What distillation has won: a student beside its teacher."""
