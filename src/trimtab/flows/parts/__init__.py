"""Steps that several verbs share. A verb's file imports these; they never import a verb."""
