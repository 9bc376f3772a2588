"""From a recording in any form to the windows that the model reads."""
