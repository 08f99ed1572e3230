"""Pipeline components: one folder per stage, shared rooms beside them."""
