"""The paper's tables and figures on a study of this project, with the paper's numbers beside ours."""
