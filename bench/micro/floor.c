/* The other yardstick: an empty Python handler called from C, and nothing else. No parser can be below it. */
#include <Python.h>

int call_handler(PyObject *handler, PyObject *session, PyObject *packet, Py_ssize_t times)
{
    PyObject *arguments[2] = {session, packet};
    for (Py_ssize_t n = 0; n < times; n++) {
        PyObject *result = PyObject_Vectorcall(handler, arguments, 2, NULL);
        if (result == NULL)
            return -1;
        Py_DECREF(result);
    }
    return 0;
}
