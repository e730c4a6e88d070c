"""lmms-eval's own scorer of MMBench-CN, with its rules instead of a judge."""

from typing import Any

from lmms_eval.tasks.mmbench import cn_utils

from sparsesight.eval.lmms.prompt_templates import mmbench_cn_prompt as doc_to_text

doc_to_visual = cn_utils.mmbench_doc_to_visual
process_results = cn_utils.mmbench_process_results


def aggregate(results: list[dict[str, Any]]) -> float:
    """Percent of questions that are right in every order of their options."""
    hits, _, _ = cn_utils.mmbench_evaluator.eval_result(results, eval_method="static")
    return float(100 * hits)


__all__ = ["aggregate", "doc_to_text", "doc_to_visual", "process_results"]
