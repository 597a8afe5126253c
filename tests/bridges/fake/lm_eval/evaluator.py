def evaluate(*, lm, task_dict, samples, bootstrap_iters, log_samples):
    assert (bootstrap_iters, log_samples) == (0, True)
    found = {}
    for name, task in task_dict["tasks"].items():
        chosen = None if samples is None else samples[name]
        task.build_all_requests(samples=chosen)
        for kind in dict.fromkeys(one.request_type for one in task.instances):
            asked = [one for one in task.instances if one.request_type == kind]
            for one, answer in zip(asked, getattr(lm, kind)(asked), strict=True):
                one.resps.append(answer)
        found[name] = []
        for doc_id, doc in enumerate(task.docs(chosen)):
            answers = [one.resps[0] for one in task.instances if one.doc_id == doc_id]
            metrics = task.metrics(doc, answers)
            number = chosen[doc_id] if chosen else doc_id
            for way in ("none", "other"):
                told = {"doc_id": number, "target": task.doc_to_target(doc), "filtered_resps": answers, "filter": way, **metrics}
                found[name].append({**told, "metrics": list(metrics)})
    return {"samples": found}
