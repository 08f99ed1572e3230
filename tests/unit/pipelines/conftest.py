"""What tests of pipelines share."""

from tests.support.shallow_stacks import use_shallow_stacks

# At once, not in a fixture: the DAG is built where it is imported.
use_shallow_stacks()
